"""Materialization and history in one process and on two Ray workers of the same machine.

    python -m benchmarks.scale_out [--entities N]

Prints a table. On one machine Ray shows what it costs, and what it wins where Python is the bottleneck.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
from feast import BatchFeatureView, FeatureStore, Field, RepoConfig
from feast.types import Float64
from psycopg import sql

from benchmarks.feast_repository import entities
from benchmarks.materialize import END, HOURS, OURS, START, Servers, fill
from benchmarks.measure import timed
from benchmarks.servers import clean_up_when_terminated, postgres, valkey

if TYPE_CHECKING:
    from collections.abc import Callable

_WORKERS = 2
RAY = {
    "offline_store": "feast_plugins.ray.offline_store.TimescaleRayOfflineStore",
    "batch_engine": "feast_plugins.ray.engine.TimescaleRayComputeEngine",
}


def busy(frame: pd.DataFrame) -> pd.DataFrame:
    """A transformation of about ten microseconds a row, as plain Python is."""
    return frame.assign(f0=[sum(value * step for step in range(100)) for value in frame["f0"]])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_out", description=__doc__)
    parser.add_argument("--entities", type=int, default=300_000)
    count = parser.parse_args().entities
    warnings.simplefilter("ignore")  # Feast's, of things that are not measured here
    clean_up_when_terminated()
    with postgres("shared_buffers=512MB") as rows, valkey() as keys, tempfile.TemporaryDirectory() as folder:
        servers = Servers(rows, keys, folder)
        fill(rows, "rows", count)
        here = servers.store(OURS, "rows")
        there = _on_ray(here, Path(folder))
        asked = _entity_rows(servers, count)
        works: dict[str, Callable[[FeatureStore], Any]] = {
            f"materialize {count:,} entities": lambda store: store.materialize(START, END, ["meters"]),
            f"the same, transformed by {busy.__name__}()": lambda store: store.materialize(
                START, END, ["busy"]
            ),
            f"history of {len(asked):,} rows": lambda store: store.get_historical_features(
                asked, [f"meters:f{number}" for number in range(3)]
            ).to_arrow(),
        }
        for store in (here, there):
            _apply_busy(store)
        # starts the workers
        there.get_historical_features(asked[:10], ["meters:f0"]).to_arrow()
        print(f"| work | one process | {_WORKERS} Ray workers |\n|---|---:|---:|")
        for title, work in works.items():
            seconds = [_measure(servers, store, work) for store in (here, there)]
            print(f"| {title} | {seconds[0]:.1f} s | {seconds[1]:.1f} s |")


def _measure(servers: Servers, store: FeatureStore, work: Callable[[FeatureStore], Any]) -> float:
    servers.client().flushall()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return timed(lambda: work(store))


def _on_ray(store: FeatureStore, folder: Path) -> FeatureStore:
    """A store of the same configuration but for Ray."""
    configuration = store.config.model_dump(by_alias=True, exclude_unset=True)
    configuration["registry"] = str(folder / f"{OURS}.db")
    configuration["offline_store"] = store.config.offline_config | {"type": RAY["offline_store"]}
    configuration["online_store"] = store.config.online_config
    configuration["batch_engine"] = {
        "type": RAY["batch_engine"],
        "max_workers": _WORKERS,
        "ray_conf": {"num_cpus": _WORKERS},
    }
    return FeatureStore(config=RepoConfig(**configuration))


def _apply_busy(store: FeatureStore) -> None:
    plain = store.get_feature_view("meters")
    view = BatchFeatureView(
        name="busy",
        mode="pandas",
        udf=busy,
        udf_string=inspect.getsource(busy),
        entities=entities(),
        schema=[Field(name="f0", dtype=Float64)],
        source=plain.batch_source,
        ttl=timedelta(days=1),
        online=True,
    )
    store.apply([view])


def _entity_rows(servers: Servers, count: int) -> pd.DataFrame:
    """A row of each entity, half an hour after one of its features."""
    with psycopg.connect(servers.postgres.dsn) as connection:
        found = connection.execute(
            sql.SQL("SELECT tenant_id, asset_id FROM rows WHERE event_timestamp = {}").format(
                sql.Literal(END - timedelta(hours=HOURS - 1))
            )
        ).fetchall()
    frame = pd.DataFrame(found, columns=["tenant_id", "asset_id"])
    return frame.assign(event_timestamp=END - timedelta(minutes=30))[:count]


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what it will do
    main()
