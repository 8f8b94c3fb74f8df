"""What becomes of online rows: pushed, deleted with their view, with their project, and after their time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from conformance.online import client, contents, read
from conformance.repository import ASSET, DEVICE, LOAD, PRICE, PUSHED, TENANT, UNMARKED, VIEWS
from conformance.stores import STOCK, shipped
from feast.data_source import PushMode

if TYPE_CHECKING:
    from conformance.stores import Hosts, Pair
    from feast import FeatureStore

NOW = datetime.now(UTC).replace(microsecond=0)
DB = 8
KEY = {"tenant_id": "t1", "asset_id": "1"}
ROW = KEY | {"event_timestamp": NOW, "created_timestamp": NOW, "load": 1.0, "readings": 2, "quality": "good"}
_PUSHED = next(made for made in VIEWS if made.name == "load_pushed")


@pytest.fixture(params=["stock", "ours"])
def classes(request: pytest.FixtureRequest, pair: Pair, hosts: Hosts) -> dict[str, Any]:
    del pair
    with client(hosts, DB) as connection:
        connection.flushdb()
    return STOCK if request.param == "stock" else shipped()


@pytest.fixture
def store(classes: dict[str, Any], hosts: Hosts, tmp_path: Any) -> FeatureStore:
    """A project of the test's own with two views of one entity, one of another, and rows in all three."""
    made = hosts.open(classes, project="upkeep", db=DB, registry=str(tmp_path / "registry.db"))
    made.apply([TENANT, ASSET, DEVICE, PUSHED, LOAD, UNMARKED, _PUSHED, PRICE])
    frame = pd.DataFrame([ROW])
    made.write_to_online_store("load", frame)
    made.write_to_online_store("unmarked", frame)
    price = {"tenant_id": "t1", "event_timestamp": NOW, "price": 3.0, "season": None}
    made.write_to_online_store("price", pd.DataFrame([price]))
    return made


def value(store: FeatureStore, feature: str) -> Any:
    (cell,) = read(store, [feature], [KEY])[feature.split(":")[1]]
    return cell.value


def test_push(store: FeatureStore) -> None:
    store.push("readings", pd.DataFrame([ROW | {"load": 7.0}]), to=PushMode.ONLINE)
    assert value(store, "load_pushed:load") == 7.0
    assert value(store, "load:load") == 1.0


def test_deleted_view__its_rows_are_gone_and_no_others(store: FeatureStore, hosts: Hosts) -> None:
    before = contents(hosts, DB)
    store.apply([TENANT, ASSET, LOAD, PRICE], objects_to_delete=[UNMARKED], partial=False)
    after = contents(hosts, DB)
    assert value(store, "load:load") == 1.0
    assert value(store, "price:price") == 3.0
    assert after.keys() == before.keys()
    gone = [field for key in before for field in before[key].keys() - after[key].keys()]
    assert len(gone) == 4  # three features and the time
    assert b"_ts:unmarked" in gone


def test_deleted_views__a_key_without_any_is_gone(store: FeatureStore, hosts: Hosts) -> None:
    store.apply([TENANT, PRICE], objects_to_delete=[UNMARKED, LOAD], partial=False)
    assert len(contents(hosts, DB)) == 1
    assert value(store, "price:price") == 3.0


def test_teardown__nothing_is_left_of_the_project(
    store: FeatureStore, classes: dict[str, Any], hosts: Hosts, tmp_path: Any
) -> None:
    other = hosts.open(classes, project="another", db=DB, registry=str(tmp_path / "other.db"))
    other.apply([TENANT, ASSET, LOAD])
    other.write_to_online_store("load", pd.DataFrame([ROW | {"load": 9.0}]))
    store.teardown()
    assert len(contents(hosts, DB)) == 1
    assert value(other, "load:load") == 9.0


def test_key_ttl__keys_expire(classes: dict[str, Any], hosts: Hosts) -> None:
    options = {"online_store": classes["online_store"] | {"key_ttl_seconds": 10_000}}
    store = hosts.open(classes | options, db=DB)
    store.write_to_online_store("load", pd.DataFrame([ROW]))
    with client(hosts, DB) as connection:
        (key,) = connection.scan_iter()
        assert 9_900 < connection.ttl(key) <= 10_000
