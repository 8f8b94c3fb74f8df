"""What the layout of the tables was chosen by: the same rows in each layout that was considered.

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

from benchmarks import lab, results, servers
from benchmarks.lab import Answer, Lab
from benchmarks.measure import PeakMemory, timed

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARK = "schema_choices"
_ASSETS = 25
_DAYS = 365
_ONE = "tenant_id = 'tenant-2' AND asset_id = 'meter-007'"
_HOUR = "date_trunc('hour', now())"
_DAY_AGO = f"{_HOUR} - INTERVAL '1 day'"
_AGGREGATE = """
CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, {options}) AS
SELECT tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
    avg(value) AS avg_value, stddev_samp(value) AS std_value,
    min(value) AS min_value, max(value) AS max_value,
    count(*) AS sample_count, stats_state(value) AS value_stats, max(ingested_at) AS last_ingested_at
FROM {source} GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") WITH NO DATA
"""
_STATE = """
CREATE AGGREGATE stats_state(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
);
CREATE AGGREGATE stats_merge(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
)
"""
#: A year of these takes more than ten minutes.
_FEW_BATCHES = 240
_OWN_INDEX = "timescaledb.create_group_indexes = false"
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


def fill(
    laboratory: Lab, name: str, *, chunk: str = "30 days", step: str = "1 hour", days: int = _DAYS
) -> None:
    """A hypertable of readings up to this hour."""
    laboratory.execute(lab.READINGS.format(name=name, chunk=chunk))
    start, end = (
        laboratory.value(f"SELECT {_HOUR} - INTERVAL '{back}'") for back in (f"{days} days", "1 minute")
    )
    laboratory.execute(lab.FILL.format(name=name, start=start, end=end, step=step))
    laboratory.execute(f"ANALYZE {name}")


def aggregate_index(laboratory: Lab) -> Answer:
    """The hourly aggregate's index."""
    answer = Answer("index of the hourly aggregate")
    fill(laboratory, "readings")
    variants = {
        "(tenant, asset, hour)": ("hourly_own", _OWN_INDEX),
        "default group indexes": ("hourly_default", "timescaledb.create_group_indexes = true"),
        "hour alone": ("hourly_time", _OWN_INDEX),
    }
    views = {variant: name for variant, (name, _) in variants.items()}
    for variant, (name, options) in variants.items():
        laboratory.execute(
            _AGGREGATE.format(
                name=name, source="readings", options=f"{options}, timescaledb.materialized_only = true"
            )
        )
        if variant.startswith("(tenant"):
            laboratory.execute(f"CREATE INDEX ON {name} (tenant_id, asset_id, hour)")
        seconds = laboratory.seconds(f"CALL refresh_continuous_aggregate('{name}', NULL, {_HOUR})")
        table = laboratory.materialized(name)
        laboratory.execute(f"ANALYZE {table}")
        indexes = laboratory.value(f"SELECT index_bytes FROM hypertable_detailed_size('{table}')") / (1 << 20)
        answer.note(variant, year_refresh_s=seconds, indexes_mib=indexes)
    reads = {
        "one asset's 24 hours": f"SELECT * FROM {{}} WHERE {_ONE} AND hour >= {_DAY_AGO}",
        "one asset's month": f"SELECT * FROM {{}} WHERE {_ONE} AND hour >= {_HOUR} - INTERVAL '190 days'"
        f" AND hour < {_HOUR} - INTERVAL '160 days'",
        "all assets' week": f"SELECT * FROM {{}} WHERE hour >= {_HOUR} - INTERVAL '7 days'",
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
    old = f"\"timestamp\" >= {_HOUR} - INTERVAL '200 days' AND \"timestamp\" < {_HOUR} - INTERVAL '{{}} days'"
    reads = {
        "one asset's 30 days": f"SELECT * FROM {{}} WHERE {_ONE} AND {old.format(170)}",
        "all assets' day": f"SELECT * FROM {{}} WHERE {old.format(199)}",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(table) for variant, table in tables.items()})

    def late(table: str) -> Callable[[int], str]:
        return lambda number: (
            f'INSERT INTO {table} ("timestamp", tenant_id, asset_id, value)'
            f" VALUES ({_HOUR} - INTERVAL '{120 + 17 * number % 200} days', 'tenant-1',"
            f" 'meter-{number + 1:03}', 1)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp") DO UPDATE SET value = excluded.value'
        )

    laboratory.compare(
        answer, "late reading", {variant: late(table) for variant, table in tables.items()}, runs=_ASSETS - 5
    )
    return answer


def chunk_interval(laboratory: Lab) -> Answer:
    """Days a chunk of readings spans."""
    answer = Answer("chunk interval of the readings")
    chunks = (7, 30, 90)
    tables = {f"{days} days": f"chunked_{days}" for days in chunks}
    for variant, table in tables.items():
        laboratory.execute(lab.READINGS.format(name=table, chunk=variant))
    # hour by hour for all assets, as meters send, in the same slices for each in turn
    begun = laboratory.value(f"SELECT {_HOUR} - INTERVAL '{_DAYS} days'")
    inserted = dict.fromkeys(tables, 0.0)
    for first in range(0, _DAYS, 5):
        for variant, table in tables.items():
            inserted[variant] += laboratory.seconds(
                f'INSERT INTO {table} ("timestamp", tenant_id, asset_id, value)'
                f" SELECT time, tenant_id, asset_id, level + extract(hour FROM time) FROM generate_series("
                f"'{begun}'::timestamptz + INTERVAL '{first} days', '{begun}'::timestamptz"
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
    day = f"\"timestamp\" >= {_HOUR} - INTERVAL '40 days' AND \"timestamp\" < {_HOUR} - INTERVAL '39 days'"
    reads = {
        "all assets' day": f"SELECT * FROM {{}} WHERE {day}",
        "one asset's newest": f'SELECT * FROM {{}} WHERE {_ONE} ORDER BY "timestamp" DESC LIMIT 1',
        "one asset's year": f"SELECT avg(value) FROM {{}} WHERE {_ONE}",
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
    recent = f"\"timestamp\" >= {_HOUR} - INTERVAL '2 hours' AND \"timestamp\" < {_HOUR} - INTERVAL '1 hour'"
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
            f" SELECT {_HOUR} + INTERVAL '{number} hours', tenant_id, asset_id, level FROM meters"
        )

    laboratory.compare(
        answer, "insert of an hour", {variant: hour(table) for variant, table in tables.items()}
    )
    return answer


def real_time(laboratory: Lab) -> Answer:
    """Whether the aggregate also answers for hours that are not materialized."""
    answer = Answer("real-time aggregate")
    fill(laboratory, "recent", step="15 minutes", days=60)
    views = {"real-time": "hourly_live", "materialized only": "hourly_stored"}
    for variant, name in views.items():
        only = str(variant == "materialized only").lower()
        options = f"{_OWN_INDEX}, timescaledb.materialized_only = {only}"
        laboratory.execute(_AGGREGATE.format(name=name, source="recent", options=options))
        laboratory.execute(f"CREATE INDEX ON {name} (tenant_id, asset_id, hour)")
        # the refresh job is due every five minutes: two hours is a late one
        laboratory.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, {_HOUR} - INTERVAL '2 hours')")
        laboratory.execute(f"ANALYZE {laboratory.materialized(name)}")
        newest = laboratory.value(f"SELECT extract(epoch FROM {_HOUR} - max(hour)) / 3600 FROM {name}")
        answer.note(variant, newest_bucket_began_hours_ago=float(newest))
    reads = {
        "one asset's 24 hours": f"SELECT * FROM {{}} WHERE {_ONE} AND hour >= {_DAY_AGO}",
        "all assets' 24 hours": f"SELECT * FROM {{}} WHERE hour >= {_DAY_AGO}",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(view) for variant, view in views.items()})
    return answer


def _whole(session: Lab, name: str) -> None:
    session.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, {_HOUR})")


def _slices(days: int) -> Callable[[Lab, str], None]:
    def run(session: Lab, name: str) -> None:
        for back in range(_DAYS // days + 1, -1, -1):
            start, end = (
                f"date_trunc('day', now()) - INTERVAL '{edge * days} days'" for edge in (back, back - 1)
            )
            session.execute(f"CALL refresh_continuous_aggregate('{name}', {start}, least({end}, {_HOUR}))")

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
    options = f"{_OWN_INDEX}, timescaledb.materialized_only = true"
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
            laboratory.execute(_AGGREGATE.format(name="hourly", source="source", options=options))
            laboratory.execute("CREATE INDEX ON hourly (tenant_id, asset_id, hour)")
            with laboratory.fresh() as session, PeakMemory(session.backend, own=True) as peak:
                seconds = timed(partial(run, session, "hourly"))
            measured[variant].append((seconds, peak.server or 0.0))
            answer.note(variant, buckets=laboratory.value("SELECT count(*) FROM hourly"))
            laboratory.execute("DROP MATERIALIZED VIEW hourly")
    for variant, runs in measured.items():
        seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        answer.note(variant, seconds=seconds, session_peak_mib=memory)
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
            f" FROM generate_series({_HOUR} - INTERVAL '90 days', {_HOUR}, INTERVAL '1 hour') AS hour, meters"
        )
        if variant.endswith("index (hour)"):
            laboratory.execute(f"CREATE INDEX ON {tables[variant]} (hour)")
        laboratory.execute(f"VACUUM ANALYZE {tables[variant]}")
        answer.note(variant, size_mib=laboratory.mib(tables[variant]))
    reads = {
        "one asset's newest row": f"SELECT * FROM {{}} WHERE {_ONE} ORDER BY hour DESC LIMIT 1",
        "one asset's month": f"SELECT * FROM {{}} WHERE {_ONE} AND hour >= {_HOUR} - INTERVAL '50 days'"
        f" AND hour < {_HOUR} - INTERVAL '20 days'",
        "all assets' hour": f"SELECT * FROM {{}} WHERE hour = {_HOUR} - INTERVAL '30 days'",
    }
    for work, query in reads.items():
        laboratory.compare(answer, work, {variant: query.format(table) for variant, table in tables.items()})

    def hour(table: str) -> Callable[[int], str]:
        return lambda number: (
            f"INSERT INTO {table} SELECT {_HOUR} + INTERVAL '{number + 1} hours', tenant_id, asset_id,"
            f" {', '.join(['level'] * 10)} FROM meters ON CONFLICT (tenant_id, asset_id, hour) DO NOTHING"
        )

    laboratory.compare(
        answer, "insert of an hour", {variant: hour(table) for variant, table in tables.items()}
    )
    return answer


def hourly_state(laboratory: Lab) -> Answer:
    """Statistics of the last 24 hours for each hour of a year, from the hourly states or the readings."""
    answer = Answer("24 h statistics of a year")
    fill(laboratory, "quarters", step="15 minutes")
    laboratory.execute(
        _AGGREGATE.format(
            name="hourly", source="quarters", options=f"{_OWN_INDEX}, timescaledb.materialized_only = true"
        )
    )
    laboratory.execute("CREATE INDEX ON hourly (tenant_id, asset_id, hour)")
    seconds = laboratory.seconds(f"CALL refresh_continuous_aggregate('hourly', NULL, {_HOUR})")
    laboratory.execute(f"ANALYZE {laboratory.materialized('hourly')}")
    answer.note("hourly state", once_to_aggregate_s=seconds)
    definition = _AGGREGATE[_AGGREGATE.index("SELECT") : _AGGREGATE.index(" WITH NO DATA")].format(
        source="quarters"
    )
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


def _for_one(query: str) -> str:
    """The query for one asset."""
    for source in ("FROM hourly\n", "FROM hourly CROSS"):
        query = query.replace(
            source, source.replace("hourly", f"(SELECT * FROM hourly WHERE {_ONE}) AS hourly")
        )
    return query.replace("FROM quarters GROUP", f"FROM quarters WHERE {_ONE} GROUP")


EXPERIMENTS = {
    "index": aggregate_index,
    "columnstore": columnstore,
    "chunks": chunk_interval,
    "time-index": time_index,
    "real-time": real_time,
    "refresh": refresh_policy,
    "key": key_order,
    "state": hourly_state,
}


def main() -> None:
    """Answer the questions on the native server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schema_choices", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(EXPERIMENTS)} (default: all)"
    )
    parser.add_argument("--output", type=Path, default=results.DOCS, help="folder of results.json")
    given = parser.parse_args()
    servers.clean_up_when_terminated()
    admin = os.environ[servers.NATIVE]
    for name in given.questions or EXPERIMENTS:
        with servers.native(admin, migrated=False) as database:
            laboratory = _laboratory(database.dsn)
            with laboratory.connection:
                answer = EXPERIMENTS[name](laboratory)
        print(f"\n## {answer.question}\n\n{answer.markdown()}", flush=True)
        folder = results.SCRATCH / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        plans = (f"-- {work}\n{plan}\n" for work, plan in answer.plans.items())
        (folder / f"{name}.txt").write_text("\n".join(plans))
        record = {
            "benchmark": BENCHMARK,
            "server": "native",
            "work": answer.question,
            "variants": answer.columns,
            "sizes": {"assets": 4 * _ASSETS, "days": _DAYS},
            "command": f"python -m benchmarks.schema_choices {name}",
            "versions": servers.versions(admin),
        }
        results.store(given.output, [record | results.circumstances()])


def _laboratory(dsn: str) -> Lab:
    """An empty database with the extension, the meters and the statistics' aggregates of our schema."""
    laboratory = Lab(dsn)
    laboratory.execute("CREATE EXTENSION timescaledb")
    laboratory.execute(lab.METERS.format(tenants=4, assets=_ASSETS))
    laboratory.execute(_STATE)
    return laboratory


if __name__ == "__main__":
    main()
