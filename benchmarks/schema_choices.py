"""Comparison of table layouts, with the same rows in each layout.

    AI_HUB_BENCH_DSN=postgresql://… python -m benchmarks.schema_choices [QUESTION …] [--output FOLDER]

Creates and drops a database of its own. Prints a table for each question, keeps the numbers in results.json
and the whole plans in build/benchmarks/plans/.
"""

# ruff: noqa: S608 (all that is put into a query is a constant of these files)

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from benchmarks import history, lab, measure, servers
from benchmarks.lab import (
    AGGREGATE,
    ASSETS,
    DAY_AGO,
    DAYS,
    HOUR,
    ONE,
    OWN_INDEX,
    READINGS,
    TENANTS,
    Answer,
    Lab,
    aggregate,
    fill,
)
from benchmarks.measure import PeakMemory, Times, timed

if TYPE_CHECKING:
    from collections.abc import Callable


def aggregate_index(laboratory: Lab) -> Answer:
    """The hourly aggregate's index."""
    answer = Answer("index of the hourly aggregate")
    fill(laboratory, "readings")
    variants = {
        "(tenant, asset, hour)": ("hourly_own", OWN_INDEX),
        "default group indexes": ("hourly_default", "timescaledb.create_group_indexes = true"),
        "hour alone": ("hourly_time", OWN_INDEX),
    }
    views = {variant: name for variant, (name, _) in variants.items()}
    for variant, (name, options) in variants.items():
        laboratory.execute(
            AGGREGATE.format(
                name=name, source="readings", options=f"{options}, timescaledb.materialized_only = true"
            )
        )
        if variant.startswith("(tenant"):
            laboratory.execute(f"CREATE INDEX ON {name} (tenant_id, asset_id, hour)")
        seconds = laboratory.seconds(f"CALL refresh_continuous_aggregate('{name}', NULL, {HOUR})")
        table = laboratory.materialized(name)
        laboratory.execute(f"ANALYZE {table}")
        indexes = laboratory.value(f"SELECT index_bytes FROM hypertable_detailed_size('{table}')") / (1 << 20)
        answer.note(variant, year_refresh_s=seconds, indexes_mib=indexes)
    reads = {
        "one asset's 24 hours": f"SELECT * FROM {{}} WHERE {ONE} AND hour >= {DAY_AGO}",
        "one asset's month": f"SELECT * FROM {{}} WHERE {ONE} AND hour >= {HOUR} - INTERVAL '190 days'"
        f" AND hour < {HOUR} - INTERVAL '160 days'",
        "all assets' week": f"SELECT * FROM {{}} WHERE hour >= {HOUR} - INTERVAL '7 days'",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(view) for variant, view in views.items()})
    return answer


def columnstore(laboratory: Lab) -> Answer:
    """How the columnstore cuts and orders rows."""
    answer = Answer("columnstore of the readings")
    layouts = {
        "row store": None,
        "segmentby tenant, asset; orderby timestamp": ("tenant_id, asset_id", '"timestamp"'),
        "segmentby tenant, asset; orderby timestamp DESC": ("tenant_id, asset_id", '"timestamp" DESC'),
        "no segmentby; orderby timestamp": ("", '"timestamp"'),
        "no segmentby; orderby tenant, asset, timestamp": ("", 'tenant_id, asset_id, "timestamp"'),
    }
    tables = {variant: f"stored_{number}" for number, variant in enumerate(layouts)}
    for variant, layout in layouts.items():
        table = tables[variant]
        fill(laboratory, table)
        if layout:
            segments, order = layout
            laboratory.execute(
                f"ALTER TABLE {table} SET (timescaledb.enable_columnstore,"
                f" timescaledb.segmentby = '{segments}', timescaledb.orderby = '{order}')"
            )
            seconds = laboratory.seconds(f"SELECT compress_chunk(chunk) FROM show_chunks('{table}') AS chunk")
            answer.note(variant, compress_s=seconds)
        laboratory.execute(f"VACUUM ANALYZE {table}")
        answer.note(variant, size_mib=laboratory.mib(table))
    old = f"\"timestamp\" >= {HOUR} - INTERVAL '200 days' AND \"timestamp\" < {HOUR} - INTERVAL '{{}} days'"
    reads = {
        "one asset's 30 days": f"SELECT * FROM {{}} WHERE {ONE} AND {old.format(170)}",
        "all assets' day": f"SELECT * FROM {{}} WHERE {old.format(199)}",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(table) for variant, table in tables.items()})

    def late(table: str) -> Callable[[int], str]:
        return lambda number: (
            f'INSERT INTO {table} ("timestamp", tenant_id, asset_id, value)'
            f" VALUES ({HOUR} - INTERVAL '{120 + 17 * number % 200} days', 'tenant-1',"
            f" 'meter-{number + 1:03}', 1)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp") DO UPDATE SET value = excluded.value'
        )

    laboratory.compare(
        answer, "late reading", {variant: late(table) for variant, table in tables.items()}, runs=ASSETS - 5
    )
    return answer


def chunk_interval(laboratory: Lab) -> Answer:
    """Days a chunk of readings spans."""
    answer = Answer("chunk interval of the readings")
    chunks = (7, 30, 90)
    tables = {f"{days} days": f"chunked_{days}" for days in chunks}
    for variant, table in tables.items():
        laboratory.execute(READINGS.format(name=table, chunk=variant))
    # hour by hour for all assets, as meters send, in the same slices for each in turn
    started = laboratory.value(f"SELECT {HOUR} - INTERVAL '{DAYS} days'")
    inserted = dict.fromkeys(tables, 0.0)
    for first in range(0, DAYS, 5):
        for variant, table in tables.items():
            inserted[variant] += laboratory.seconds(
                f'INSERT INTO {table} ("timestamp", tenant_id, asset_id, value)'
                f" SELECT time, tenant_id, asset_id, level + extract(hour FROM time) FROM generate_series("
                f"'{started}'::timestamptz + INTERVAL '{first} days', '{started}'::timestamptz"
                f" + INTERVAL '{first + 5} days' - INTERVAL '1 hour', INTERVAL '1 hour')"
                " AS time, meters"
            )
    for variant, table in tables.items():
        rows = laboratory.value(f"SELECT count(*) FROM {table}")
        laboratory.execute(f"VACUUM ANALYZE {table}")
        answer.note(
            variant,
            chunks=laboratory.value(f"SELECT count(*) FROM show_chunks('{table}')"),
            rows_inserted_a_second=round(rows / inserted[variant]),
            size_mib=laboratory.mib(table),
        )
    day = f"\"timestamp\" >= {HOUR} - INTERVAL '40 days' AND \"timestamp\" < {HOUR} - INTERVAL '39 days'"
    reads = {
        "all assets' day": f"SELECT * FROM {{}} WHERE {day}",
        "one asset's newest": f'SELECT * FROM {{}} WHERE {ONE} ORDER BY "timestamp" DESC LIMIT 1',
        "one asset's year": f"SELECT avg(value) FROM {{}} WHERE {ONE}",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(table) for variant, table in tables.items()})
    return answer


def time_index(laboratory: Lab) -> Answer:
    """Whether the readings need an index that begins with the time."""
    answer = Answer("index of the readings by time")
    variants = {
        "key alone": "",
        "and (timestamp)": '("timestamp")',
        "and BRIN (timestamp)": 'USING brin ("timestamp")',
    }
    tables = {variant: f"timed_{number}" for number, variant in enumerate(variants)}
    for variant, table in tables.items():
        fill(laboratory, table, step="15 minutes", days=60)
        if variants[variant]:
            laboratory.execute(f"CREATE INDEX ON {table} {variants[variant]}")
        laboratory.execute(f"VACUUM ANALYZE {table}")
        answer.note(variant, size_mib=laboratory.mib(table))
    recent = f"\"timestamp\" >= {HOUR} - INTERVAL '2 hours' AND \"timestamp\" < {HOUR} - INTERVAL '1 hour'"
    buckets = (
        "SELECT tenant_id, asset_id, avg(value), stats_state(value) FROM {}"
        f" WHERE {recent} GROUP BY tenant_id, asset_id"
    )
    laboratory.compare(
        answer, "refresh of an hour", {variant: buckets.format(table) for variant, table in tables.items()}
    )

    def hour(table: str) -> Callable[[int], str]:
        return lambda number: (
            f'INSERT INTO {table} ("timestamp", tenant_id, asset_id, value)'
            f" SELECT {HOUR} + INTERVAL '{number} hours', tenant_id, asset_id, level FROM meters"
        )

    laboratory.compare(
        answer, "insert of an hour", {variant: hour(table) for variant, table in tables.items()}
    )
    return answer


def key_order(laboratory: Lab) -> Answer:
    """Order of the columns in the key of the computed features."""
    answer = Answer("key of ai_features")
    keys = {
        "(tenant, asset, hour)": "tenant_id, asset_id, hour",
        "(hour, tenant, asset)": "hour, tenant_id, asset_id",
        "(tenant, asset, hour) and index (hour)": "tenant_id, asset_id, hour",
    }
    tables = {variant: f"features_{number}" for number, variant in enumerate(keys)}
    columns = ", ".join(f"f{number} double precision" for number in range(10))
    for variant, key in keys.items():
        laboratory.execute(
            f"CREATE TABLE {tables[variant]} (hour timestamptz NOT NULL, tenant_id text NOT NULL,"
            f" asset_id text NOT NULL, {columns}, created_timestamp timestamptz NOT NULL DEFAULT now(),"
            f" PRIMARY KEY ({key}));\n"
            f"SELECT create_hypertable('{tables[variant]}', by_range('hour', INTERVAL '7 days'),"
            " create_default_indexes => false)"
        )
        laboratory.execute(
            f"INSERT INTO {tables[variant]} SELECT hour, tenant_id, asset_id, {', '.join(['level'] * 10)}"
            f" FROM generate_series({HOUR} - INTERVAL '90 days', {HOUR}, INTERVAL '1 hour') AS hour, meters"
        )
        if variant.endswith("index (hour)"):
            laboratory.execute(f"CREATE INDEX ON {tables[variant]} (hour)")
        laboratory.execute(f"VACUUM ANALYZE {tables[variant]}")
        answer.note(variant, size_mib=laboratory.mib(tables[variant]))
    reads = {
        "one asset's newest row": f"SELECT * FROM {{}} WHERE {ONE} ORDER BY hour DESC LIMIT 1",
        "one asset's month": f"SELECT * FROM {{}} WHERE {ONE} AND hour >= {HOUR} - INTERVAL '50 days'"
        f" AND hour < {HOUR} - INTERVAL '20 days'",
        "all assets' hour": f"SELECT * FROM {{}} WHERE hour = {HOUR} - INTERVAL '30 days'",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(table) for variant, table in tables.items()})

    def hour(table: str) -> Callable[[int], str]:
        return lambda number: (
            f"INSERT INTO {table} SELECT {HOUR} + INTERVAL '{number + 1} hours', tenant_id, asset_id,"
            f" {', '.join(['level'] * 10)} FROM meters ON CONFLICT (tenant_id, asset_id, hour) DO NOTHING"
        )

    laboratory.compare(
        answer, "insert of an hour", {variant: hour(table) for variant, table in tables.items()}
    )
    return answer


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


def _one_call(session: Lab, name: str) -> None:
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
        "one call": _one_call,
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
    laboratory.compare(answer, "one asset's year", {work: _for_one(query) for work, query in queries.items()})
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


BENCHMARK = "schema_choices"
QUESTIONS: dict[str, Callable[[Lab], Answer]] = {
    "index": aggregate_index,
    "columnstore": columnstore,
    "chunks": chunk_interval,
    "time-index": time_index,
    "key": key_order,
    "real-time": real_time,
    "refresh": refresh_policy,
    "state": hourly_state,
    "jit": compiler,
}


def main() -> None:
    """Answer the questions on the native server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schema_choices", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)} (default: all)"
    )
    parser.add_argument("--output", type=Path, default=measure.DOCS, help="folder of results.json")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    admin = os.environ[servers.NATIVE]
    for name in arguments.questions or QUESTIONS:
        with servers.native(admin, migrated=False) as database:
            laboratory = _laboratory(database.dsn)
            with laboratory.connection:
                answer = QUESTIONS[name](laboratory)
        print(f"\n## {answer.question}\n\n{answer.markdown()}", flush=True)
        folder = measure.SCRATCH / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        plans = (f"-- {work}\n{plan}\n" for work, plan in answer.plans.items())
        (folder / f"{name}.txt").write_text("\n".join(plans))
        record = {
            "benchmark": BENCHMARK,
            "server": "native",
            "work": answer.question,
            "variants": answer.columns,
            "sizes": {"assets": lab.TENANTS * lab.ASSETS, "days": lab.DAYS},
            "command": f"python -m benchmarks.schema_choices {name}",
            "versions": servers.versions(admin),
        }
        measure.store(arguments.output, [record | measure.circumstances()])


def _laboratory(dsn: str) -> Lab:
    """An empty database with the extension, the meters and the statistics' aggregates of our schema."""
    laboratory = Lab(dsn)
    laboratory.execute("CREATE EXTENSION timescaledb")
    laboratory.execute(lab.METERS.format(tenants=lab.TENANTS, assets=lab.ASSETS))
    laboratory.execute(lab.STATE)
    return laboratory


if __name__ == "__main__":
    main()
