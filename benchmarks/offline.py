"""History and whole tables from Postgres: Feast's own offline store, ours, and COPY as the floor.

    python -m benchmarks.offline [--small] [--stock-limit SECONDS] [--output FOLDER]

Measures on a native PostgreSQL that it starts, with Debian's settings but for `shared_buffers`. Processes of
their own run what may not finish or whose memory is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import feast
import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from benchmarks import comparison, measure
from benchmarks.comparison import FLOOR, OURS, STOCK, Comparison
from benchmarks.feast_repository import CREATED, KEYS, TIME, Table, entities, open_store
from benchmarks.measure import own_peak_mib, timed
from benchmarks.servers import Postgres, clean_up_when_terminated, postgres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureStore
    from feast.infra.offline_stores.offline_store import RetrievalJob

BENCHMARK = "offline"
SEED = 20_261_125
START = datetime(2025, 1, 1, tzinfo=UTC)
ASSETS = 100

WIDE = Table("wide", tuple(f"f{number}" for number in range(13)))
#: With keys and times, 16 columns.
FLAT = Table("flat", tuple(f"f{number}" for number in range(12)))
THREE = (
    Table("first", tuple(f"f{number}" for number in range(5))),
    Table("second", tuple(f"f{number}" for number in range(5, 9))),
    Table("third", tuple(f"f{number}" for number in range(9, 13))),
)
TABLES = (WIDE, FLAT, *THREE)


@dataclass(frozen=True)
class Size:
    """Size of the data; fixed, so that runs can be compared."""

    hours: int
    few: int
    many_hours: int
    days: tuple[int, ...]
    rounds: int
    #: kinds of work that are done in processes of their own, too
    apart: tuple[str, ...]


FULL = Size(
    hours=10_000,
    few=95_000,
    many_hours=8_760,
    days=(7, 30, 91, 365),
    rounds=5,
    apart=("random", "hours", "range", "fetch"),
)
SMALL = Size(hours=240, few=500, many_hours=3, days=(1, 7), rounds=2, apart=("fetch",))


@dataclass(frozen=True)
class Work:
    """A retrieval, so that another process can do the same."""

    kind: str
    tables: tuple[str, ...]
    #: entity rows, hours or days
    amount: int

    def run(self, store: FeatureStore) -> int:
        """Run the retrieval, and return the number of rows."""
        rows: int = self._job(store).to_arrow().num_rows
        return rows

    def _job(self, store: FeatureStore) -> RetrievalJob:
        tables = [table for table in TABLES if table.name in self.tables]
        features = [reference for table in tables for reference in table.references()]
        if self.kind == "fetch":
            source = store.get_feature_view(tables[0].name).batch_source
            return store._get_provider().offline_store.pull_all_from_table_or_query(  # noqa: SLF001  # what materialization calls
                store.config, source, list(KEYS), list(tables[0].features), TIME, CREATED, START, _end(10**6)
            )
        if self.kind == "range":
            return store.get_historical_features(
                features=features, start_date=START, end_date=START + timedelta(days=self.amount)
            )
        rows = _random_rows(self.amount) if self.kind == "random" else _every_hour(self.amount)
        return store.get_historical_features(rows, features)

    def floor(self, size: Size) -> list[sql.Composed]:
        """COPY of the candidate rows."""
        end = START + timedelta(days=self.amount) if self.kind == "range" else _end(size.hours)
        return [
            sql.SQL("COPY (SELECT * FROM {} WHERE {} BETWEEN {} AND {}) TO STDOUT (FORMAT binary)").format(
                sql.Identifier(name), sql.Identifier(TIME), sql.Literal(START), sql.Literal(end)
            )
            for name in self.tables
        ]


def main() -> None:
    """Measure and write records, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few rows: shows that it works, in a minute")
    parser.add_argument(
        "--stock-limit", type=float, default=600.0, help="seconds that a run of stock may take"
    )
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
    with postgres("shared_buffers=512MB") as server, tempfile.TemporaryDirectory() as registry:
        versions = _fill(server, size)
        records = [
            {"benchmark": BENCHMARK, "server": "native", "seed": SEED, "versions": versions}
            | {"command": "make bench SMALL=1" if arguments.small else "make bench"}
            | comparison.record()
            | circumstances
            for comparison in _measure(server, Path(registry), size, arguments.stock_limit)
        ]
    # in the order of the works, not of their names
    measure.store(folder, records)
    comparison.write_report(folder, BENCHMARK, _INTRO, records)
    print(f"written to {folder}")


def _measure(server: Postgres, folder: Path, size: Size, stock_limit: float) -> list[Comparison]:
    process = _Process(server, folder, stock_limit)
    comparisons = []
    for title, work in _works(size):
        print(title, file=sys.stderr, flush=True)
        comparison = Comparison(title, "COPY of the views' rows in range", {})
        # stock's cost grows with the square of the days: the first is enough
        with_stock = work.kind != "range" or work.amount == size.days[0]
        if work.kind in size.apart:
            for variant in (STOCK, OURS) if with_stock else (OURS,):
                process.measure(comparison, variant, work)
        store = open_store(OURS, server, folder, _objects())
        comparison.run_interleaved(
            {OURS: partial(work.run, store), FLOOR: partial(_copy, server, work.floor(size))}, size.rounds
        )
        comparisons.append(comparison)
    return comparisons


def _works(size: Size) -> list[tuple[str, Work]]:
    names = tuple(table.name for table in THREE)
    many, rows = size.many_hours * ASSETS, size.hours * ASSETS
    three = f"{len(THREE)} views of {rows:,} rows"
    return [
        (
            f"history of {size.few:,} rows, 13 features of a view of {rows:,} rows",
            Work("random", (WIDE.name,), size.few),
        ),
        (f"history of {many:,} rows, 13 features of {three}", Work("hours", names, size.many_hours)),
        *(
            (f"no entity rows, {days} days of {ASSETS} assets, {three}", Work("range", names, days))
            for days in size.days
        ),
        (f"fetch of {rows:,} rows of 16 columns", Work("fetch", (FLAT.name,), 0)),
    ]


@dataclass(frozen=True)
class _Process:
    """Runs work in processes of their own, to measure memory and the seconds of stock."""

    server: Postgres
    folder: Path
    limit_s: float

    def measure(self, comparison: Comparison, variant: str, work: Work) -> None:
        """Run the work once."""
        arguments = {"variant": variant, "work": asdict(work), "folder": str(self.folder)}
        arguments["server"] = {
            name: value for name, value in asdict(self.server).items() if name != "restart"
        }
        command = [sys.executable, "-m", "benchmarks.offline", "--child", json.dumps(arguments)]
        try:
            process = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=self.limit_s
            )
        except subprocess.TimeoutExpired:
            comparison.unfinished[variant] = self.limit_s
            _end_queries(self.server)
            return
        report = json.loads(process.stdout.splitlines()[-1])
        comparison.sizes["rows"] = report["rows"]
        comparison.peak_mib[variant] = report["peak_mib"]
        if variant == STOCK:
            comparison.times[STOCK].runs.append(report["seconds"])


def _child(variant: str, work: dict[str, Any], server: dict[str, Any], folder: str) -> None:
    store = open_store(variant, Postgres(**server), Path(folder), _objects())
    task = Work(work["kind"], tuple(work["tables"]), work["amount"])
    rows: list[int] = []
    seconds = timed(lambda: rows.append(task.run(store)))
    print(json.dumps({"seconds": seconds, "rows": rows[0], "peak_mib": own_peak_mib()}))


def _objects() -> list[Any]:
    return [*entities(), *(table.view() for table in TABLES)]


def _fill(server: Postgres, size: Size) -> dict[str, str]:
    """Fill tables in the order of arrival: hour by hour. Returns the versions of the software."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SELECT setseed({})").format(sql.Literal(SEED / 10**9)))
        for table in TABLES:
            features = sql.SQL(", ").join(
                sql.SQL("random() AS {}").format(sql.Identifier(feature)) for feature in table.features
            )
            values = {"assets": ASSETS, "rows": ASSETS * size.hours, "start": START}
            connection.execute(
                sql.SQL(_TABLE).format(
                    sql.Identifier(table.name),
                    features,
                    **{name: sql.Literal(value) for name, value in values.items()},
                )
            )
            connection.execute(sql.SQL(_INDEX).format(sql.Identifier(table.name)))
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table.name)))
        version = connection.info.parameter_status("server_version") or ""
    return {"PostgreSQL": version.split()[0], "Feast": feast.__version__, "Python": sys.version.split()[0]}


_TABLE: LiteralString = """
CREATE TABLE {} AS SELECT 'tenant-' || n % 5 AS tenant_id, 'asset-' || n % {assets} AS asset_id,
    {start} + n / {assets} * interval '1 hour' AS event_timestamp,
    {start} + n / {assets} * interval '1 hour' AS created_timestamp, {}
FROM generate_series(0, {rows} - 1) AS n
"""
_INDEX: LiteralString = "CREATE UNIQUE INDEX ON {} (tenant_id, asset_id, event_timestamp)"


def _random_rows(count: int) -> pd.DataFrame:
    """Entity rows of random assets and times within the first 400 days."""
    random = np.random.default_rng(SEED)
    return _entity_rows(random.integers(0, ASSETS, count), random.uniform(0, min(count / 10, 9_600), count))


def _every_hour(hours: int) -> pd.DataFrame:
    """Entity rows of every asset at half past each hour."""
    return _entity_rows(np.tile(np.arange(ASSETS), hours), np.repeat(np.arange(hours), ASSETS) + 0.5)


def _entity_rows(assets: Sequence[int], hours: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tenant_id": [f"tenant-{asset % 5}" for asset in assets],
            "asset_id": [f"asset-{asset}" for asset in assets],
            TIME: pd.Timestamp(START) + pd.to_timedelta(hours, unit="h"),
        }
    )


def _copy(server: Postgres, commands: Sequence[sql.Composed]) -> None:
    """Send rows to the client by binary COPY, and discard them."""
    with psycopg.connect(server.dsn) as connection:
        for command in commands:
            with connection.cursor() as cursor, cursor.copy(command) as copy:
                for _ in copy:
                    pass


def _end_queries(server: Postgres) -> None:
    """Cancel queries that stock Feast leaves running when its process is killed."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


def _end(hours: int) -> datetime:
    return START + timedelta(hours=hours)


_INTRO = """\
# Offline store: history and whole tables

The same retrievals by Feast's own Postgres store and by ours, on one native PostgreSQL with hourly rows of
100 assets of five tenants. Ours and the floor run in turns; their ratio is the median of the rounds' ratios.
Stock runs once, in a process of its own that is stopped after a limit.
"""


if __name__ == "__main__":
    main()
