"""Materialization from Postgres to Redis: Feast's own stores and engine, ours, and raw writes as the floor.

    python -m benchmarks.materialize [--small] [--output FOLDER]

Measures on a native PostgreSQL and a Valkey that it starts. Feast's classes, and whatever the memory is
measured of, run in processes of their own.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import feast
import psycopg
from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64, String
from psycopg import sql
from redis import Redis

from benchmarks import comparison, measure
from benchmarks.comparison import FLOOR, OURS, STOCK, Comparison
from benchmarks.feast_repository import CREATED, TIME, entities, open_store
from benchmarks.measure import own_peak_mib, timed
from benchmarks.servers import HOST, Postgres, Valkey, clean_up_when_terminated, postgres, valkey
from feast_plugins.materialize.encoding import data_of
from feast_plugins.materialize.plan import Encoder, ViewPlan, latest, plan
from feast_plugins.materialize.resp import StoredTimes
from feast_plugins.materialize.shards import Shards, open_channel
from feast_plugins.postgres.session import connect, stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from feast import FeatureStore

BENCHMARK = "materialize"
SEED = 20_261_125
END = datetime(2026, 1, 2, tzinfo=UTC)
START = END - timedelta(days=1)
#: Rows of each entity in the range, of which one counts.
HOURS = 3
TTL_S = 172_800
FEATURES = {"f0": Float64, "f1": Float64, "f2": Float64, "i0": Int64, "i1": Int64, "text": String}
_TIMEOUT_S = 60
ONLINE = {STOCK: "redis", OURS: "feast_plugins.online_store.CorrectableRedisOnlineStore"}
ENGINE = {STOCK: "local", OURS: "feast_plugins.batch_engine.ArrowComputeEngine"}


@dataclass(frozen=True)
class Size:
    """Size of the data; fixed, so that runs can be compared."""

    entities: int
    #: of which only the memory matters
    many: int | None
    rounds: int


FULL = Size(entities=100_000, many=1_000_000, rounds=7)
SMALL = Size(entities=2_000, many=None, rounds=2)


@dataclass(frozen=True)
class Servers:
    """Source and destination of the rows."""

    postgres: Postgres
    valkey: Valkey
    folder: str

    def client(self) -> Redis:
        """A client of the Redis that is filled."""
        return Redis(HOST, self.valkey.port)

    def store(self, variant: str, table: str) -> FeatureStore:
        """Feature store with one view, over `table`."""
        view = FeatureView(
            name="meters",
            entities=entities(),
            schema=[Field(name=name, dtype=kind) for name, kind in FEATURES.items()],
            source=PostgreSQLSource(
                name=table, table=table, timestamp_field=TIME, created_timestamp_column=CREATED
            ),
        )
        return open_store(
            variant,
            self.postgres,
            Path(self.folder),
            [*entities(), view],
            online_store={
                "type": ONLINE[variant],
                "connection_string": self.valkey.connection_string,
                "key_ttl_seconds": TTL_S,
            },
            batch_engine={"type": ENGINE[variant]},
            materialization={"pull_latest_features": True},
        )


def main() -> None:
    """Measure and write records, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.materialize", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few rows: shows that it works, in seconds")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Feast's, of things that are not measured here
    if arguments.child:
        _child(**json.loads(arguments.child))
        return
    clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    circumstances = measure.circumstances()
    with (
        postgres("shared_buffers=512MB") as rows,
        valkey() as keys,
        tempfile.TemporaryDirectory() as registry,
    ):
        servers = Servers(rows, keys, registry)
        versions = _versions(servers)
        records = [
            {"benchmark": BENCHMARK, "server": "native", "seed": SEED, "versions": versions}
            | {"command": "make bench SMALL=1" if arguments.small else "make bench"}
            | comparison.record()
            | circumstances
            for comparison in _measure(servers, size)
        ]
    measure.store(folder, records)
    comparison.write_report(folder, BENCHMARK, _INTRO, records)
    print(f"written to {folder}")


def _measure(servers: Servers, size: Size) -> list[Comparison]:
    fill(servers.postgres, "rows", size.entities)
    comparison = _compare(servers, size)
    if size.many is None:
        return [comparison]
    fill(servers.postgres, "many", size.many)
    large = Comparison(_title(size.many), "the same commands, encoded before", {"rows": size.many})
    report = _in_a_process(servers, OURS, "many")
    large.peak_mib[OURS] = report["peak_mib"]
    large.times[OURS].runs.append(report["seconds"])
    return [comparison, large]


def _compare(servers: Servers, size: Size) -> Comparison:
    comparison = Comparison(
        _title(size.entities), "the same commands, encoded before", {"rows": size.entities}
    )
    for variant in (STOCK, OURS):
        servers.client().flushall()
        report = _in_a_process(servers, variant, "rows")
        comparison.peak_mib[variant] = report["peak_mib"]
        if variant == STOCK:
            comparison.times[STOCK].runs.append(report["seconds"])
    store = servers.store(OURS, "rows")
    encoded = _commands(store)
    works = {OURS: lambda: _materialize(store), FLOOR: lambda: write(servers.client(), encoded)}
    for number in range(size.rounds):
        for variant in list(works)[:: -1 if number % 2 else 1]:
            servers.client().flushall()
            comparison.times[variant].measure(works[variant])
            _require_all(servers.client(), size.entities)
    return comparison


def _title(count: int) -> str:
    return f"materialize {count:,} entities, {len(FEATURES)} features"


def _materialize(store: FeatureStore) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        store.materialize(START, END)


def _commands(store: FeatureStore) -> list[tuple[memoryview, int]]:
    """The commands that ours sends, in the same batches, and the number of replies to each."""
    view = store.get_feature_view("meters")
    query = latest(plan_of(store, view).source, START, END, None, timedelta())
    with connect(store.config.offline_store) as connection, stream(connection, query) as batches:
        return commands(store, view, batches)


def plan_of(store: FeatureStore, view: FeatureView) -> ViewPlan:
    """How a view is materialized."""
    view_plan = plan(view, store.config)
    if view_plan is None:
        raise RuntimeError("The view does not go the fast way.")
    return view_plan


def commands(
    store: FeatureStore, view: FeatureView, batches: Iterable[pa.RecordBatch]
) -> list[tuple[memoryview, int]]:
    """The commands that write these rows, and the number of replies to each batch of them."""
    view_plan = plan_of(store, view)
    encoder = Encoder(view_plan, view, store.project, check=False, replace_equal=True)
    unread = StoredTimes(Shards(None, _TIMEOUT_S), view_plan.time_field)
    found = []
    for batch in batches:
        keys, encoded = encoder.encode(batch, unread)
        found.append((data_of(encoded), len(keys) * encoder.replies))
    return found


def write(client: Redis, encoded: Iterable[tuple[memoryview, int]]) -> None:
    """Write encoded commands."""
    with open_channel(client, _TIMEOUT_S) as channel:
        for command, replies in encoded:
            channel.send(command)
            channel.integers(replies)


def _require_all(client: Redis, count: int) -> None:
    if client.dbsize() != count:
        raise RuntimeError(f"{client.dbsize()} keys instead of {count}")


def _in_a_process(servers: Servers, variant: str, table: str) -> dict[str, Any]:
    plain = asdict(servers)
    del plain["postgres"]["restart"]
    arguments = json.dumps({"servers": plain, "variant": variant, "table": table})
    command = [sys.executable, "-m", "benchmarks.materialize", "--child", arguments]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return report


def _child(servers: dict[str, Any], variant: str, table: str) -> None:
    running = Servers(Postgres(**servers["postgres"]), Valkey(**servers["valkey"]), servers["folder"])
    store = running.store(variant, table)
    seconds = timed(lambda: _materialize(store))
    peak = own_peak_mib()
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def fill(server: Postgres, table: str, count: int) -> None:
    """Fill a table in the order of arrival: hour by hour."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SELECT setseed({})").format(sql.Literal(SEED / 10**9)))
        name = sql.Identifier(table)
        connection.execute(
            sql.SQL(_TABLE).format(name, entities=sql.Literal(count), hours=HOURS, end=sql.Literal(END))
        )
        connection.execute(sql.SQL(_INDEX).format(name))
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(name))


def _versions(servers: Servers) -> dict[str, str]:
    with psycopg.connect(servers.postgres.dsn) as connection:
        version = connection.info.parameter_status("server_version") or ""
    keys: Any = servers.client().info("server")
    return {
        "PostgreSQL": version.split()[0],
        "Valkey": str(keys["valkey_version"]),
        "Feast": feast.__version__,
        "Python": sys.version.split()[0],
    }


_TABLE: LiteralString = """
CREATE TABLE {} AS SELECT 'tenant-' || n % 50 AS tenant_id, 'asset-' || n AS asset_id,
    {end} - hour * interval '1 hour' AS event_timestamp,
    {end} - hour * interval '1 hour' AS created_timestamp,
    random() AS f0, random() * 1000 AS f1, nullif(random(), 0) AS f2,
    n::bigint AS i0, (random() * 1e6)::bigint AS i1, 'state-' || n % 97 AS text
FROM generate_series({hours} - 1, 0, -1) AS hour, generate_series(1, {entities}) AS n
"""
_INDEX: LiteralString = "CREATE UNIQUE INDEX ON {} (tenant_id, asset_id, event_timestamp)"

_INTRO = f"""\
# Materialization

`FeatureStore.materialize` of one view with features of type double, integer and text, {HOURS} rows an entity
in range, into an empty Valkey whose keys expire. Ours and the floor run in turns; their ratio is the median
of the rounds' ratios. The floor sends the same commands in the same parts, and waits for the replies. Stock
runs once, in a process of its own. Ours compares each row with the time of the one that is stored; the floor
does not.
"""


if __name__ == "__main__":
    main()
