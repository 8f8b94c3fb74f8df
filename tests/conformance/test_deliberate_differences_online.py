"""Where online reads, writes and deletes differ from stock's on purpose; see `docs/conformance.md`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pandas as pd
import pyarrow as pa
import pytest
from conformance.compare import canonical
from conformance.online import EXPIRED, NOT_FOUND, NULL, PRESENT, client, contents, read
from conformance.repository import ASSET, LOAD, TENANT
from conformance.rows import HOUR, KINDS, T0, plain
from conformance.stores import STOCK, Pair, shipped
from psycopg.types.json import Json, Jsonb

if TYPE_CHECKING:
    from conformance.stores import Hosts
    from feast import FeatureStore

NOW = datetime.now(UTC).replace(microsecond=0)
DB = 7
SPAN = (T0 - 9 * HOUR, T0 + 9 * HOUR)
KEY = {"tenant_id": "t1", "asset_id": "1"}


@pytest.fixture
def online(pair: Pair, hosts: Hosts) -> Pair:
    """Stock and ours with an empty database that both use."""
    del pair
    with client(hosts, DB) as connection:
        connection.flushdb()
    return Pair.open(hosts, (DB, DB))


def write(store: FeatureStore, *, at: datetime = NOW, load: float | None = 1.5, tenant: str = "t1") -> None:
    row = KEY | {"tenant_id": tenant, "event_timestamp": at, "created_timestamp": NOW}
    frame = pd.DataFrame([row | {"load": load, "readings": 1, "quality": "good"}])
    store.write_to_online_store("load", frame.astype({"load": "float64"}))


def load(store: FeatureStore, **key: str) -> tuple[Any, str]:
    (cell,) = read(store, ["load:load"], [KEY | key])["load"]
    return cell.value, cell.status


def test_deliberate_difference__unknown_entities_are_not_found(online: Pair) -> None:
    assert load(online.stock) == (None, PRESENT)
    assert load(online.ours) == (None, NOT_FOUND)


def test_deliberate_difference__missing_values_are_null(online: Pair) -> None:
    write(online.stock, load=None)
    assert load(online.stock) == (None, PRESENT)
    assert load(online.ours) == (None, NULL)


def test_deliberate_difference__expired_rows_are_not_served(online: Pair) -> None:
    write(online.stock, at=NOW - 3 * HOUR)
    assert load(online.stock) == (1.5, PRESENT)
    assert load(online.ours) == (None, EXPIRED)


def test_deliberate_difference__corrected_rows_replace_those_of_the_same_time(online: Pair) -> None:
    write(online.stock, load=1.0)
    write(online.stock, load=2.0)
    assert load(online.stock)[0] == 1.0
    write(online.ours, load=3.0)
    assert load(online.ours)[0] == 3.0
    for store in (online.stock, online.ours):
        write(store, load=4.0, at=NOW - timedelta(minutes=1))
        assert load(store)[0] == 3.0


def test_deliberate_difference__on_demand_features_with_full_names(online: Pair) -> None:
    """Stock leaves them out."""
    write(online.stock)
    stock, ours = (
        read(store, ["cost:known", "load:load"], [KEY], full=True) for store in (online.stock, online.ours)
    )
    assert ours.keys() - stock.keys() == {"cost__known"}
    assert ours["cost__known"][0].value == 0


def test_deliberate_difference__on_demand_features_of_every_entity(online: Pair) -> None:
    """Computed one by one (`singleton=True`), stock gives those of the first entity only."""
    for number, tenant in enumerate(("t1", "t2")):
        write(online.stock, load=number, tenant=tenant)
    keys = [KEY, KEY | {"tenant_id": "t2"}]
    stock, ours = (
        [cell.value for cell in read(store, ["labelled:label"], keys)["label"]]
        for store in (online.stock, online.ours)
    )
    assert stock == ["good 0.0"]
    assert ours == ["good 0.0", "good 1.0"]


def test_deliberate_difference__features_come_in_the_order_of_the_request(online: Pair) -> None:
    """Stock takes them from a set, so their order is another in every process."""
    features = ["load:quality", "price:season", "load:load", "price:price", "load:readings"]
    names = [feature.split(":")[1] for feature in features]
    assert list(read(online.ours, features, [KEY])) == [*KEY, *names]
    assert sorted(read(online.stock, features, [KEY])) == sorted([*KEY, *names])


def test_deliberate_difference__teardown_leaves_other_projects_alone(online: Pair, hosts: Hosts) -> None:
    """Stock deletes the keys of every project whose name ends in this one's."""
    for classes, kept in ((STOCK, 0), (shipped(), 1)):
        with client(hosts, DB) as connection:
            connection.flushdb()
        write(online.ours)
        project = hosts.open(classes, db=DB, project="mance", registry=f"{hosts.registry}.{kept}")
        project.apply([TENANT, ASSET, LOAD])
        project.teardown()
        assert len(contents(hosts, DB)) == kept


def test_deliberate_difference__large_integers_beside_missing_ones(online: Pair, hosts: Hosts) -> None:
    """Stock's engine makes floats of them."""
    del online
    keys = [{"device_id": 1}, {"device_id": 2}]
    for classes, want in ((STOCK, 2**53), (shipped(), 2**53 + 1)):
        with client(hosts, DB) as connection:
            connection.flushdb()
        store = hosts.open(classes, db=DB)
        store.materialize(T0 - HOUR, T0 + HOUR, feature_views=["numbered"])
        assert [cell.value for cell in read(store, ["numbered:number"], keys)["number"]] == [want, None]


def test_deliberate_difference__views_without_an_entity_from_all_rows(online: Pair, hosts: Hosts) -> None:
    """Stock materializes them with `pull_latest_features` only."""
    del online
    with pytest.raises(ValueError, match="__dummy_id"):
        hosts.open(STOCK, db=DB).materialize(*SPAN, feature_views=["market_ever"])
    ours = hosts.open(shipped(), db=DB)
    ours.materialize(*SPAN, feature_views=["market_ever"])
    assert [cell.value for cell in read(ours, ["market_ever:index"], [KEY])["index"]] == [3.0]


@pytest.mark.parametrize("name", ["numeric", "numerics", "uuid", "uuids", "json", "jsonb"])
def test_deliberate_difference__types_that_stock_cannot_materialize(
    online: Pair, hosts: Hosts, name: str
) -> None:
    del online
    with pytest.raises(pa.ArrowException):
        hosts.open(STOCK, db=DB).materialize(*SPAN, feature_views=[f"only_{name}"])
    ours = hosts.open(shipped(), db=DB)
    ours.materialize(*SPAN, feature_views=[f"only_{name}"])
    keys = [{"device_id": device} for device in range(1, 6)]
    cells = read(ours, [f"only_{name}:f_{name}"], keys)[f"f_{name}"]
    want = [canonical(_served(value)) for value in KINDS[name].examples]
    assert [canonical(cell.value) for cell in cells] == [*want, None]


def _served(value: Any) -> Any:
    """A value as Feast's Python types have it; a number that is NaN is served as none, by stock, too."""
    match value:
        case list():
            return [item if isinstance(item, UUID) else plain(item) for item in value]
        case Json() | Jsonb():
            return value.obj
        case Decimal():
            return None if value.is_nan() else float(value)
    return value


def test_deliberate_difference__keys_live_as_long_as_their_rows(online: Pair, hosts: Hosts) -> None:
    """Stock lets a row vanish that its view would still serve, for two hours here."""
    del online
    left = []
    for classes in (STOCK, shipped()):
        options = {"online_store": classes["online_store"] | {"key_ttl_seconds": 60}}
        write(hosts.open(classes | options, db=DB))
        with client(hosts, DB) as connection:
            (key,) = connection.scan_iter()
            left.append(connection.ttl(key))
    assert left[0] <= 60
    assert 7100 < left[1] <= 7200
