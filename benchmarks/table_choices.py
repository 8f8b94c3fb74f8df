"""Questions about the tables: indexes, keys, chunks, the columnstore."""

# ruff: noqa: S608 (all that is put into a query is a constant of these files)

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.lab import Answer, Lab
from benchmarks.layouts import AGGREGATE, ASSETS, DAY_AGO, DAYS, HOUR, ONE, OWN_INDEX, READINGS, fill

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
    begun = laboratory.value(f"SELECT {HOUR} - INTERVAL '{DAYS} days'")
    inserted = dict.fromkeys(tables, 0.0)
    for first in range(0, DAYS, 5):
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
