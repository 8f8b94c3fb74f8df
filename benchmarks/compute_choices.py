"""Questions about computing: what is computed when, from what, and with which settings."""

# ruff: noqa: S608 (all that is put into a query is a constant of these files)

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from ai_hub.database import connect
from ai_hub.database.migrate import migrate
from ai_hub.database.refresh import refresh
from benchmarks import history, servers
from benchmarks.lab import Answer, Lab
from benchmarks.layouts import AGGREGATE, ASSETS, DAY_AGO, DAYS, HOUR, ONE, TENANTS, aggregate, fill
from benchmarks.measure import PeakMemory, Times, timed

if TYPE_CHECKING:
    from collections.abc import Callable

#: A year of these takes more than ten minutes.
_FEW_BATCHES = 240
_WINDOW_24H = """
SELECT count(std) FROM (
    SELECT float8_avg(stats_merge(value_stats) OVER day) AS mean,
        float8_stddev_samp(stats_merge(value_stats) OVER day) AS std,
        min(min_value) OVER day AS low, max(max_value) OVER day AS high
    FROM {source}
    WINDOW day AS (PARTITION BY tenant_id, asset_id ORDER BY hour
        RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND INTERVAL '1 hour' PRECEDING)
) AS windows WHERE mean IS NOT NULL AND low <= high
"""


def real_time(laboratory: Lab) -> Answer:
    """Whether the aggregate also answers for hours that are not materialized."""
    answer = Answer("real-time aggregate")
    fill(laboratory, "recent", step="15 minutes", days=60)
    views = {"real-time": "hourly_live", "materialized only": "hourly_stored"}
    for variant, name in views.items():
        aggregate(laboratory, name, "recent", real_time=variant == "real-time")
        # the refresh job is due every five minutes: two hours is a late one
        laboratory.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, {HOUR} - INTERVAL '2 hours')")
        laboratory.execute(f"ANALYZE {laboratory.materialized(name)}")
        newest = laboratory.value(f"SELECT extract(epoch FROM {HOUR} - max(hour)) / 3600 FROM {name}")
        answer.note(variant, newest_bucket_began_hours_ago=float(newest))
    reads = {
        "one asset's 24 hours": f"SELECT * FROM {{}} WHERE {ONE} AND hour >= {DAY_AGO}",
        "all assets' 24 hours": f"SELECT * FROM {{}} WHERE hour >= {DAY_AGO}",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(view) for variant, view in views.items()})
    return answer


def _whole(session: Lab, name: str) -> None:
    session.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, {HOUR})")


def _slices(days: int) -> Callable[[Lab, str], None]:
    def run(session: Lab, name: str) -> None:
        for back in range(DAYS // days + 1, -1, -1):
            start, end = (
                f"date_trunc('day', now()) - INTERVAL '{edge * days} days'" for edge in (back, back - 1)
            )
            session.execute(f"CALL refresh_continuous_aggregate('{name}', {start}, least({end}, {HOUR}))")

    return run


def _policy(batch: int, *, batches: int = 0) -> Callable[[Lab, str], None]:
    def run(session: Lab, name: str) -> None:
        job = session.value(
            f"SELECT add_continuous_aggregate_policy('{name}', start_offset => NULL, end_offset =>"
            f" INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour', buckets_per_batch => {batch},"
            f" max_batches_per_execution => {batches})"
        )
        session.value(f"SELECT alter_job({job}, scheduled => false)")
        session.execute(f"CALL run_job({job})")

    return run


def refresh_policy(laboratory: Lab) -> Answer:
    """A year in one refresh, in slices, or as the policy cuts it."""
    answer = Answer("refresh of the hourly aggregate over a year")
    fill(laboratory, "source")
    variants: dict[str, Callable[[Lab, str], None]] = {
        "one call": _whole,
        "30-day slices": _slices(30),
        "7-day slices": _slices(7),
        f"policy, 1 bucket a batch (default), {_FEW_BATCHES} batches": _policy(1, batches=_FEW_BATCHES),
        "policy, 24 buckets a batch": _policy(24),
        "policy, 720 buckets a batch": _policy(720),
        "policy, all in one": _policy(0),
    }
    measured: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(3):
        for variant, run in variants.items():
            aggregate(laboratory, "hourly", "source")
            with laboratory.fresh() as session, PeakMemory(session.backend, own=True) as peak:
                seconds = timed(partial(run, session, "hourly"))
            measured[variant].append((seconds, peak.server or 0.0))
            answer.note(variant, buckets=laboratory.value("SELECT count(*) FROM hourly"))
            laboratory.execute("DROP MATERIALIZED VIEW hourly")
    definition = _definition("source")
    for variant, days in {"one call": DAYS, "7-day slices": 7}.items():
        rows = definition.replace("GROUP", f"WHERE \"timestamp\" >= {HOUR} - INTERVAL '{days} days' GROUP")
        answer.plans[f"what a refresh reads, {variant}"] = laboratory.plan(rows)
    for variant, runs in measured.items():
        seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        answer.note(variant, seconds=seconds, session_peak_mib=memory)
    return answer


def hourly_state(laboratory: Lab) -> Answer:
    """Statistics of the last 24 hours for each hour of a year, from the hourly states or the readings."""
    answer = Answer("24 h statistics of a year")
    fill(laboratory, "quarters", step="15 minutes")
    aggregate(laboratory, "hourly", "quarters")
    seconds = laboratory.seconds(f"CALL refresh_continuous_aggregate('hourly', NULL, {HOUR})")
    laboratory.execute(f"ANALYZE {laboratory.materialized('hourly')}")
    answer.note("hourly state", once_to_aggregate_s=seconds)
    definition = _definition("quarters")
    queries = {
        "hourly state": _WINDOW_24H.format(source="hourly"),
        "readings, aggregated in the query": _WINDOW_24H.format(source=f"({definition}) AS hourly"),
        "readings, window by window": (
            "SELECT count(std) FROM hourly CROSS JOIN LATERAL ("
            "SELECT avg(value) AS mean, stddev_samp(value) AS std, min(value) AS low, max(value) AS high"
            " FROM quarters"
            " WHERE quarters.tenant_id = hourly.tenant_id AND quarters.asset_id = hourly.asset_id"
            ' AND "timestamp" < hourly.hour AND "timestamp" >= hourly.hour - INTERVAL \'24 hours\''
            ") AS day WHERE mean IS NOT NULL AND low <= high"
        ),
    }
    laboratory.compare(answer, "one asset's year", {each: _for_one(query) for each, query in queries.items()})
    # for all assets it takes minutes
    del queries["readings, window by window"]
    laboratory.compare(answer, "100 assets' year", queries, runs=2)
    return answer


def compiler(laboratory: Lab) -> Answer:
    """The just-in-time compiler, in the schema as it is: refreshes of one new hour."""
    answer = Answer("just-in-time compiler")
    laboratory.execute("DROP AGGREGATE stats_state(double precision), stats_merge(double precision[])")
    dsn = laboratory.dsn
    migrate(dsn)
    meters = history.History(TENANTS * ASSETS, 90, history.this_hour() - 12 * history.HOUR)
    measured: defaultdict[str, Times] = defaultdict(Times)
    with connect(dsn, autocommit=True) as connection:
        connection.execute(servers.PAUSE_JOBS)
        meters.add_assets(connection)
        history.write(connection, meters.rows())
        refresh(dsn=dsn)
        connection.execute("ANALYZE")
        for number in range(10):
            setting = ("off", "on")[number % 2]
            laboratory.execute(f"ALTER DATABASE {connection.info.dbname} SET jit = {setting}")
            history.write(connection, meters.hour(meters.end + (number + 1) * history.HOUR, seed=number))
            measured[setting].measure(partial(refresh, dsn=dsn))
    for setting, times in measured.items():
        answer.note(f"jit {setting}", one_new_hour_s=times.median)
    return answer


def _definition(source: str) -> str:
    """The aggregate's query."""
    return AGGREGATE[AGGREGATE.index("SELECT") : AGGREGATE.index(" WITH NO DATA")].format(source=source)


def _for_one(query: str) -> str:
    """The query for one asset."""
    for source in ("FROM hourly\n", "FROM hourly CROSS"):
        query = query.replace(
            source, source.replace("hourly", f"(SELECT * FROM hourly WHERE {ONE}) AS hourly")
        )
    return query.replace("FROM quarters GROUP", f"FROM quarters WHERE {ONE} GROUP")
