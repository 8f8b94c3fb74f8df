"""What stock Feast says of a view with `Aggregation` on Postgres, command by command.

    python -m benchmarks.stock_aggregations

A mean over three hours is declared with Feast's local provider and engine, its Postgres offline store and its
SQLite online store, over a meter that reads 1, 2, 3, … each hour. docs/declared-features.md has what this
prints beside ours.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
from feast import BatchFeatureView, Entity, Field, PushSource, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.stream_feature_view import StreamFeatureView
from feast.types import Float64

from benchmarks import servers
from benchmarks.comparison import STOCK
from benchmarks.feast_repository import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from feast import FeatureStore

HOURS = 24
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
#: The name of the aggregation, and of the column: what a view's schema may name.
FIELDS = ("mean_3h", "value")
FILL = (
    "CREATE TABLE readings AS"
    " SELECT 'meter' AS asset_id, at, row_number() OVER (ORDER BY at)::float8 AS value"
    " FROM generate_series(%s::timestamptz, %s, INTERVAL '1 hour') AS at"
)


def views() -> Iterator[tuple[str, Any]]:
    """The view as each class that takes aggregations, by what it is."""
    source = PostgreSQLSource(name="readings", table="readings", timestamp_field="at")
    for field in FIELDS:
        options: dict[str, Any] = {
            "entities": [ASSET],
            "schema": [Field(name=field, dtype=Float64)],
            "aggregations": [
                Aggregation("value", "mean", timedelta(hours=3), timedelta(hours=1), name="mean_3h")
            ],
            "ttl": timedelta(hours=3),
            "online": True,
        }
        stream: dict[str, Any] = options | {
            "source": PushSource(name=f"push_{field}", batch_source=source),
            "timestamp_field": "at",
            "mode": "pandas",
        }
        tiling: dict[str, Any] = {"enable_tiling": True, "tiling_hop_size": timedelta(hours=1)}
        batch = BatchFeatureView(name=f"batch_{field}", source=source, **options)
        yield f"BatchFeatureView, field {field}", batch
        yield f"StreamFeatureView, field {field}", StreamFeatureView(name=f"stream_{field}", **stream)
        tiled = StreamFeatureView(name=f"tiled_{field}", **stream, **tiling)
        yield f"StreamFeatureView with tiling, field {field}", tiled


def outcome(step: Callable[[], object]) -> str:
    """What a step gives, or its error, in one line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return str(step())
        except Exception as error:  # noqa: BLE001  # this is what is shown
            message = " ".join(str(error).partition("\nLINE ")[0].split())
            return f"{type(error).__name__}: {message}"


def steps(store: FeatureStore, view: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each command by name, in the order in which people run them."""
    field = view.schema[0].name
    keys = pd.DataFrame({"asset_id": ["meter"], "event_timestamp": [NOW]})

    def apply() -> str:
        store.apply([ASSET, view])
        return "accepted"

    def registry() -> str:
        found = store.registry.get_any_feature_view(view.name, store.project)
        return f"{len(getattr(found, 'aggregations', None) or [])} of 1 aggregation"

    def history() -> object:
        return store.get_historical_features(keys, [f"{view.name}:{field}"]).to_df()[field].iloc[0]

    def materialize() -> str:
        store.materialize(NOW - timedelta(hours=3), NOW, [view.name])
        return "done"

    def online() -> object:
        return store.get_online_features([f"{view.name}:{field}"], [{"asset_id": "meter"}]).to_dict()[field][
            0
        ]

    yield "apply", apply
    yield "in the registry then", registry
    yield "get_historical_features", history
    yield "materialize", materialize
    yield "get_online_features", online


def main() -> None:
    """Print what each view says."""
    warnings.simplefilter("ignore")
    logging.disable()
    print(f"expected: {HOURS - 1.0}, the mean of {HOURS - 2}, {HOURS - 1} and {HOURS}")
    with servers.postgres() as server, tempfile.TemporaryDirectory() as name:
        with psycopg.connect(server.dsn) as connection:
            # the last hour before NOW is the 24th
            connection.execute(FILL, [NOW - timedelta(hours=HOURS), NOW - timedelta(hours=1)])
        for title, view in views():
            folder = Path(name) / view.name
            folder.mkdir()
            print(f"\n{title}")
            online = {"type": "sqlite", "path": str(folder / "online.db")}
            store = open_store(STOCK, server, folder, [], online_store=online, batch_engine={"type": "local"})
            for command, step in steps(store, view):
                print(f"  {command}: {outcome(step)}")


if __name__ == "__main__":
    main()
