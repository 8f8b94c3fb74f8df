"""Where history differs from stock's on purpose: stock gives the wrong thing, ours the right one.

`docs/conformance.md` lists them under the same names.
"""

from __future__ import annotations

import secrets
from datetime import date
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from conformance.compare import canonical, column, rows, unordered
from conformance.history import DEVICES, FRAMES, entities
from conformance.rows import ARRAYS, HOUR, KINDS, T0, plain
from conformance.test_jobs import pull
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)

if TYPE_CHECKING:
    from conformance.stores import Pair
    from feast import FeatureStore

# stock's way to the columns of a query
pytestmark = pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy:UserWarning")
FEW = FRAMES["one"]
ALL = {"start_date": T0 - 40 * HOUR, "end_date": T0 + 9 * HOUR}


def history(store: FeatureStore, frame: Any, *features: str, **options: Any) -> pa.Table:
    return store.get_historical_features(frame, list(features), **options).to_arrow()


def test_deliberate_difference__keys_are_compared_one_by_one(pair: Pair) -> None:
    """A leak between tenants: stock puts the parts of a key together without anything between."""
    frame = entities([("t", "11"), ("t1", "1")], [T0 - HOUR])
    for store in pair.joins.values():
        assert column(history(store, frame, "load:load"), "load") == [None, 3.0]
    assert column(history(pair.stock, frame, "load:load"), "load") == [3.0, 3.0]


def test_deliberate_difference__tied_rows_give_one_row(pair: Pair) -> None:
    """Nothing says which of two rows of one time is newer, so one of them is taken."""
    frame = pd.DataFrame({"tenant_id": ["t1", "t2"], "event_timestamp": pd.Timestamp(T0 + HOUR)})
    for store in pair.joins.values():
        assert column(history(store, frame, "ties:value"), "value") in ([1.0, 3.0], [2.0, 3.0])
    assert sorted(column(history(pair.stock, frame, "ties:value"), "value")) == [1.0, 2.0, 3.0]


def test_deliberate_difference__times_keep_their_zone(pair: Pair) -> None:
    for name in ("timestamptz", "timestamp"):
        ours, stock = (history(store, DEVICES, f"typed:f_{name}") for store in (pair.ours, pair.stock))
        assert stock.schema.field("event_timestamp").type.tz is None
        assert stock.schema.field(f"f_{name}").type.tz is None
        assert ours.schema.field("event_timestamp").type.tz == "UTC"
        assert ours.schema.field(f"f_{name}").type.tz == "UTC"


@pytest.mark.parametrize("name", ["numeric", "uuid", "json", "jsonb", "numerics", "uuids"])
def test_deliberate_difference__types_that_stock_cannot_read(pair: Pair, name: str) -> None:
    """JSON and UUIDs are text; of numbers, stock cannot read NaN."""
    feature = f"unreadable:f_{name}"
    with pytest.raises(pa.ArrowException):
        history(pair.stock, DEVICES, feature)
    kind = pa.float64() if name.startswith("numeric") else pa.string()
    for store in pair.joins.values():
        found = history(store, DEVICES, feature)
        assert found.schema.field(f"f_{name}").type == (pa.list_(kind) if name in ARRAYS else kind)
        want = [canonical(plain(value)) for value in KINDS[name].examples]
        assert column(found, f"f_{name}") == [*want, None]


@pytest.mark.parametrize(
    ("frame", "want"),
    [
        (FEW.head(0), []),
        (FEW.assign(event_timestamp=[time.isoformat() for time in FEW["event_timestamp"]]), [3.0]),
        (FEW.rename(columns={"event_timestamp": "Asked At"}), [3.0]),
        (FEW.assign(tenant_id=FEW["tenant_id"].astype("category")), [3.0]),
        (FEW.assign(x=b"bytes"), [3.0]),
        (FEW.assign(x=date(2026, 1, 1)), [3.0]),
        (FEW.assign(x=[{"a": 1}]), [3.0]),
        (FEW.assign(x=np.int8(1)), [3.0]),
        (FEW.assign(x=pd.Timedelta(1, "h")), [3.0]),
        (FEW.assign(x=None), [3.0]),
        (FEW.assign(**{'"; --': 1}), [3.0]),
    ],
    ids=["empty", "text", "capitals", "category", "bytes", "date", "dict", "int8", "delta", "none", "quote"],
)
def test_deliberate_difference__frames_that_stock_cannot_upload(
    pair: Pair, frame: pd.DataFrame, want: list[float]
) -> None:
    with pytest.raises((psycopg.Error, ValueError)):
        history(pair.stock, frame, "load:load")
    for store in pair.joins.values():
        found = history(store, frame, "load:load")
        assert column(found, "load") == want
        assert found.column_names == [*frame.columns, "load"]


def test_deliberate_difference__columns_of_the_frame_keep_their_type(pair: Pair) -> None:
    frame = FEW.assign(x=np.float32(0.1))
    ours, stock = (history(store, frame, "load:load") for store in (pair.ours, pair.stock))
    assert ours["x"].type == pa.float32()
    assert stock["x"].type == pa.float64()


def test_deliberate_difference__missing_keys_are_named(pair: Pair) -> None:
    frame = FEW.drop(columns="asset_id")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        history(pair.stock, frame, "load:load")
    with pytest.raises(FeastEntityDFMissingColumnsError, match="asset_id"):
        history(pair.ours, frame, "load:load")


def test_deliberate_difference__query_without_rows_is_empty(pair: Pair) -> None:
    query = "SELECT tenant_id, asset_id, event_timestamp FROM loads WHERE false"
    with pytest.raises(AttributeError):
        history(pair.stock, query, "load:load")
    found = history(pair.ours, query, "load:load")
    assert found.column_names == ["tenant_id", "asset_id", "event_timestamp", "load"]
    assert found.num_rows == 0


def test_deliberate_difference__range_takes_the_row_created_last(pair: Pair) -> None:
    """Of a corrected row, stock gives either; with entity rows it gives the correction, too."""
    features = ("load:readings", "load_ever:load")
    names = ["event_timestamp", "tenant_id", "asset_id", "readings", "load"]
    ours, stock = (history(store, None, *features, **ALL) for store in (pair.ours, pair.stock))
    at, key = T0 - 3 * HOUR, ("t1", "1")
    want = [(at, *key, 25, 2.5)]
    assert ours.column_names == stock.column_names == names
    assert [row for row in rows(ours) if row[:3] == (at, *key)] == want
    assert len(ours) == len(set(unordered(ours)))
    (given,) = [row for row in rows(stock) if row[:3] == (at, *key)]
    assert given[3] in {20, 25}


def test_deliberate_difference__range_of_views_with_other_keys(pair: Pair) -> None:
    """The view with the keys of all others gives the rows, as entity rows would."""
    for features in (("load:load", "price:price"), ("price:price", "market:index")):
        with pytest.raises(psycopg.errors.SyntaxError):
            history(pair.stock, None, *features, **ALL)
    found = history(pair.ours, None, "load_good:load", "price:price", "market:index", **ALL)
    asked = found.select(["tenant_id", "asset_id", "event_timestamp"]).to_pandas()
    again = history(pair.ours, asked, "load_good:load", "price:price", "market:index")
    assert unordered(again.select(found.column_names)) == unordered(found)
    assert found.num_rows > 5


def test_deliberate_difference__range_of_a_naive_column(pair: Pair) -> None:
    """Stock compares the column with the clock of the zone that the range is given in."""
    span = {"start_date": T0 - 3 * HOUR, "end_date": T0 - 2 * HOUR}
    berlin = {name: time.astimezone(ZoneInfo("Europe/Berlin")) for name, time in span.items()}
    want = unordered(history(pair.stock, None, "price_naive:price", **span))
    assert len(want) == 3
    assert unordered(history(pair.stock, None, "price_naive:price", **berlin)) != want
    assert unordered(history(pair.ours, None, "price_naive:price", **berlin)) == want


def test_deliberate_difference__keys_that_a_source_renames(pair: Pair) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        history(pair.stock, None, "renamed:power", **ALL)
    found = history(pair.ours, None, "renamed:power", **ALL)
    assert unordered(found.select(["tenant_id", "power"])) == [("t1", 1.5), ("t1", 2.5), ("t2", 3.5)]


def test_deliberate_difference__late_rows_are_pulled(pair: Pair) -> None:
    """A row changed by late readings is stamped before the end of the last materialization."""
    span = (T0 - 2 * HOUR, T0 - HOUR / 2)
    ours, stock = (pull(store, "latest", "one key", span) for store in (pair.ours, pair.stock))
    assert column(stock.to_arrow(), "tenant_id") == ["t2", "t3"]
    assert sorted(column(ours.to_arrow(), "tenant_id")) == ["t1", "t2", "t3"]


def test_deliberate_difference__latest_of_no_entity_is_one_row(pair: Pair) -> None:
    """Asked for every column, stock gives every row."""
    span = (T0 - 9 * HOUR, T0 + 9 * HOUR)
    ours, stock = (
        pull(store, "latest", "every column, no entity", span) for store in (pair.ours, pair.stock)
    )
    assert stock.to_arrow().num_rows == 3
    assert column(ours.to_arrow(), "index") == [3.0]


def test_deliberate_difference__saved_values_stay_as_they_are(pair: Pair) -> None:
    """Stock saves NaN as NULL, and integers as floats where one is missing."""
    frame = entities([("t2", "1"), ("t1", "nobody")], [T0 + HOUR])
    saved = []
    for store in (pair.ours, pair.stock):
        table = f"kept_{secrets.token_hex(4)}"
        job = store.get_historical_features(frame, ["load:load", "load:readings"])
        saved.append(store.create_saved_dataset(job, table, SavedDatasetPostgreSQLStorage(table)).to_arrow())
    ours, stock = saved
    assert [sorted(column(made, "load"), key=repr) for made in saved] == [["NaN", None], [None, None]]
    assert [made["readings"].type for made in saved] == [pa.int64(), pa.float64()]
    assert [made["event_timestamp"].type.tz for made in (ours, stock)] == ["UTC", None]


def test_deliberate_difference__saved_datasets_can_be_replaced(pair: Pair) -> None:
    """Stock's class takes `allow_overwrite` and fails with it."""

    def save(store: FeatureStore, table: str, *, overwrite: bool) -> None:
        job = store.get_historical_features(FEW, ["load:load"])
        job.persist(SavedDatasetPostgreSQLStorage(table), allow_overwrite=overwrite)

    table = f"twice_{secrets.token_hex(4)}"
    save(pair.stock, table, overwrite=False)
    with pytest.raises(psycopg.errors.DuplicateTable):
        save(pair.stock, table, overwrite=True)
    save(pair.ours, table, overwrite=True)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        save(pair.ours, table, overwrite=False)
