"""A column that a source renames: read in every mode, written, and its mistakes told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

from ai_hub.db import connect
from ai_hub.features.store import open_store
from feast_plugins.errors import HistoryNotKnownError, WriteColumnsError, WriteTargetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
METER = Entity(name="meter", join_keys=["meter_id"], value_type=ValueType.INT64)
#: Two versions of one row, written one and three hours after its time, and a row of another meter.
ROWS = [(1, START, START + HOUR, 1.0, 7), (1, START, START + 3 * HOUR, 2.0, None), (2, START, START, 9.0, 8)]


def source(table: str, *, created: bool = True, query: str | None = None) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=f"{table}_{created}_{query is not None}",
        table=None if query else table,
        query=query,
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp" if created else "",
        field_mapping={"mapped kW": "power", "at": "event_timestamp", "made": "created_timestamp"},
    )


def view(of: PostgreSQLSource) -> FeatureView:
    return FeatureView(
        name="load",
        entities=[METER],
        schema=[Field(name="power", dtype=Float64), Field(name="count", dtype=Int64)],
        source=of,
        ttl=timedelta(hours=6),
    )


@pytest.fixture
def table(energy: Energy, tenant: str) -> Iterator[str]:
    del energy
    name = tenant.replace("-", "_")
    with connect() as connection:
        connection.execute(
            f'CREATE TABLE {name} (meter_id bigint, "at" timestamptz, made timestamptz, "mapped kW" float8,'
            ' count bigint, UNIQUE (meter_id, "at", made))'
        )
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {name} VALUES (%s, %s, %s, %s, %s)", ROWS)  # noqa: S608  # made here
    yield name
    with connect() as connection:
        connection.execute(f"DROP TABLE {name}")


@pytest.fixture
def config(table: str, tmp_path: Path) -> dict[str, Any]:
    """A project of this test alone, on the same servers and through the same plugins."""
    del table
    ours = open_store().config
    return {
        "project": "mapping",
        "provider": "local",
        "registry": str(tmp_path / "registry.db"),
        "offline_store": ours.offline_store.model_dump(),
        "online_store": ours.online_store.model_dump(),
        "entity_key_serialization_version": 3,
    }


def applied(config: dict[str, Any], load: FeatureView, **offline: Any) -> FeatureStore:
    changed = {"offline_store": config["offline_store"] | offline}
    store = FeatureStore(config=RepoConfig(**(config | changed)))
    store.apply([METER, load])
    return store


def history(store: FeatureStore, *hours: int, by_row: bool = False) -> list[Any]:
    entities = pd.DataFrame({"meter_id": 1, "event_timestamp": [START + hour * HOUR for hour in hours]})
    actual = store.get_historical_features(
        entities, ["load:power", "load:count"], full_feature_names=True, filter_by_created_timestamp=by_row
    ).to_df()
    return [None if pd.isna(value) else value for value in actual["load__power"]]


def test_history__renamed_columns__are_read_in_every_mode(config: dict[str, Any], table: str) -> None:
    store = applied(config, view(source(table)))
    assert history(store, 0, 1, 2, 3, 6, 7) == [2.0, 2.0, 2.0, 2.0, 2.0, None]
    assert history(store, 0, 1, 2, 3, 6, 7, by_row=True) == [None, 1.0, 1.0, 2.0, 2.0, None]
    then = applied(config, view(source(table)), known_at=START + 2 * HOUR)
    assert history(then, 0, 3) == [1.0, 1.0]
    assert history(then, 0, 3, by_row=True) == [None, 1.0]


def test_history__source_that_does_not_say_when_rows_were_made(config: dict[str, Any], table: str) -> None:
    query = f"SELECT * FROM {table} WHERE made < '{START + 2 * HOUR}'"  # noqa: S608  # made here
    plain = view(source(table, created=False, query=query))
    # as everywhere in Feast, the filter has nothing to filter by
    assert history(applied(config, plain), 0, by_row=True) == [1.0]
    with pytest.raises(HistoryNotKnownError, match="load has no created_timestamp_column"):
        history(applied(config, plain, known_at=START), 0)


def pushed(**columns: Any) -> pa.Table:
    made = {"meter_id": [1], "event_timestamp": [START], "created_timestamp": [START + 9 * HOUR]}
    return pa.table(made | {"power": [5.0], "count": [1]} | columns)


def test_offline_write__without_a_key__says_what_is_needed(config: dict[str, Any], table: str) -> None:
    store = applied(config, view(source(table)))
    write = store._get_provider().ingest_df_to_offline_store
    load = store.get_feature_view("load")
    with pytest.raises(WriteTargetError, match=r"needs a unique key \(meter_id, at\)"):
        write(load, pushed())
    with pytest.raises(WriteTargetError, match="is no table"):
        write(view(source(table, query=f"SELECT * FROM {table}")), pushed())  # noqa: S608  # made here
    with pytest.raises(WriteColumnsError, match="missing: at") as caught:
        write(load, pushed().drop_columns("event_timestamp"))
    assert caught.value.missing == ["at"]
    with pytest.raises(WriteColumnsError, match="not in the table: nope"):
        write(load, pushed(nope=[1]))


def test_offline_write__renamed_columns__are_upserted_once(config: dict[str, Any], table: str) -> None:
    store = applied(config, view(source(table)))
    load = store.get_feature_view("load")
    write = store._get_provider().ingest_df_to_offline_store

    def stored() -> list[Any]:
        with connect() as connection:
            return connection.execute(
                f'SELECT meter_id, "mapped kW", count, made FROM {table} ORDER BY meter_id'  # noqa: S608  # made here
            ).fetchall()

    with connect() as connection:
        connection.execute(f"DELETE FROM {table} WHERE made > %s", [START + HOUR])  # noqa: S608  # made here
        connection.execute(f'CREATE UNIQUE INDEX ON {table} (meter_id, "at")')
    made = [START + 9 * HOUR, START + 8 * HOUR, START + 9 * HOUR]
    rows = {
        "meter_id": [1, 1, 3],
        # times without a zone, and as text, are UTC
        "event_timestamp": pa.array([START.replace(tzinfo=None)] * 3, pa.timestamp("ns")),
        "created_timestamp": pa.array([at.isoformat() for at in made]),
        "power": [5.0, 4.0, None],
        "count": [1, None, 3],
    }
    for _ in range(2):
        write(load, pa.table(rows))
        assert stored() == [(1, 5.0, 1, made[0]), (2, 9.0, 8, START), (3, None, 3, made[2])]
    # an older version of a row does not replace a newer one, a newer one does
    write(load, pushed(created_timestamp=[START + 5 * HOUR]))
    assert stored()[0] == (1, 5.0, 1, made[0])
    write(load, pushed(created_timestamp=[START + 10 * HOUR], power=[6.0]))
    assert stored()[0] == (1, 6.0, 1, START + 10 * HOUR)
