"""Online reads: the same values and times; where stock's statuses are wrong, ours are those expected."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from conformance.online import EXPIRED, NOT_FOUND, NULL, PRESENT, client, contents, read
from conformance.rows import HOUR, T0
from conformance.stores import Pair, shipped
from feast.errors import FeatureNameCollisionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.online import Answer
    from conformance.stores import Hosts
    from feast import FeatureStore

NOW = datetime.now(UTC).replace(microsecond=0)
_LOADS = [
    ("t1", "1", NOW - timedelta(minutes=5), 1.5, 10, "good"),
    ("t1", "2", NOW - timedelta(minutes=5), None, None, "bad"),
    ("t2", "1", NOW - 3 * HOUR, 6.0, 60, "good"),
    ("", "", NOW - timedelta(minutes=1), 8.0, 80, ""),
]
_PRICES = [("t1", NOW - HOUR, 100.0, "summer"), ("t2", NOW - 2 * HOUR, 200.0, None)]
_DEVICES = [(1, NOW, 10), (2, NOW, 20), (-(2**63), NOW, 30), (2**63 - 1, NOW, 40)]
RANGE = (T0 - 40 * HOUR, T0 + 9 * HOUR)
LATEST = {"materialization": {"pull_latest_features": True}}

KEYS = [
    {"tenant_id": tenant, "asset_id": asset, "other_tenant": other, "factor": factor}
    for tenant, asset, other, factor in [
        ("t1", "1", "t2", 2.0),
        ("t2", "1", "t1", 3.0),
        ("t1", "nobody", "t1", 0.0),
        ("t1", "2", "nobody", 5.0),
        ("", "", "t1", 1.0),
        ("t1", "1", "t2", 4.0),
    ]
]
_PAIRS = ["tenant_id", "asset_id"]
#: Features, the columns of `KEYS` they are asked by, and whether names are full.
READS: dict[str, tuple[list[str] | str, list[str], bool]] = {
    "one": (["load:load"], _PAIRS, False),
    "reversed": (["load:quality", "load:readings", "load:load"], _PAIRS[::-1], False),
    "several views": (["load:load", "price:price", "market_ever:index", "load:quality"], _PAIRS, True),
    "one key of two": (["price:season", "price:price"], ["tenant_id"], False),
    "half a key": (["load:load"], ["tenant_id"], False),
    "no entity": (["market_ever:index"], ["tenant_id"], False),
    "pandas": (["scaled:scaled"], [*_PAIRS, "factor"], False),
    "python": (["cost:known", "load:load"], _PAIRS, False),
    "service": ("everything", _PAIRS, False),
    "projections": ("projected", _PAIRS, True),
    "aliases": ("aliased", ["tenant_id", "other_tenant"], True),
}


def frame(rows: list[Any], *names: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(names))


def fill(store: FeatureStore) -> None:
    write = store.write_to_online_store
    loads = frame(_LOADS, *_PAIRS, "event_timestamp", "load", "readings", "quality")
    loads["readings"] = loads["readings"].astype("Int64")
    write("load", loads.assign(created_timestamp=NOW))
    write("price", frame(_PRICES, "tenant_id", "event_timestamp", "price", "season"))
    store.materialize(*RANGE, feature_views=["market_ever"])  # Feast cannot write a row without an entity
    write("numbered", frame(_DEVICES, "device_id", "event_timestamp", "number"))


@pytest.fixture(scope="module")
def filled(pair: Pair, hosts: Hosts) -> Iterator[Pair]:
    """Stock has filled database 5, which both read."""
    del pair
    with client(hosts, 5) as connection:
        connection.flushdb()
    made = Pair.open(hosts, (5, 5), **LATEST)
    fill(made.stock)
    yield made
    for store in (made.stock, made.ours):
        asyncio.run(store.close())


def ask(store: FeatureStore, what: str, keys: list[dict[str, Any]], *, in_loop: bool) -> Answer:
    features, columns, full = READS[what]
    keys = [{column: key[column] for column in columns} for key in keys]
    return read(store, features, keys, full=full, in_loop=in_loop)


def test_write__same_bytes(filled: Pair, hosts: Hosts) -> None:
    del filled
    with client(hosts, 6) as connection:
        connection.flushdb()
    fill(hosts.open(shipped(), db=6, **LATEST))
    assert contents(hosts, 6) == contents(hosts, 5) != {}


@pytest.mark.parametrize("in_loop", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("what", list(READS))
def test_read__same_values_and_times(filled: Pair, what: str, in_loop: bool) -> None:
    alive = [key for key in KEYS if key["tenant_id"] != "t2"]
    ours, stock = (ask(store, what, alive, in_loop=in_loop) for store in (filled.ours, filled.stock))
    assert ours.keys() == stock.keys()
    for name, cells in stock.items():
        for our, their in zip(ours[name], cells, strict=True):
            assert (our.value, our.time) == (their.value, their.time), name
            assert our.status == PRESENT or our.value is None


@pytest.mark.parametrize("in_loop", [False, True], ids=["sync", "async"])
def test_read__values_and_statuses(filled: Pair, in_loop: bool) -> None:
    found = ask(filled.ours, "several views", KEYS, in_loop=in_loop)
    assert [(cell.value, cell.status) for cell in found["load__load"]] == [
        (1.5, PRESENT),
        (None, EXPIRED),
        (None, NOT_FOUND),
        (None, NULL),
        (8.0, PRESENT),
        (1.5, PRESENT),
    ]
    assert [(cell.value, cell.status) for cell in found["load__quality"]] == [
        ("good", PRESENT),
        (None, EXPIRED),
        (None, NOT_FOUND),
        ("bad", PRESENT),
        ("", PRESENT),
        ("good", PRESENT),
    ]
    assert [(cell.value, cell.status) for cell in found["price__price"]] == [
        (100.0, PRESENT),
        (200.0, PRESENT),
        (100.0, PRESENT),
        (100.0, PRESENT),
        (None, NOT_FOUND),
        (100.0, PRESENT),
    ]
    assert [(cell.value, cell.status) for cell in found["market_ever__index"]] == [(3.0, PRESENT)] * 6
    times = [row[2] for row in _LOADS]
    never = datetime(1970, 1, 1, tzinfo=UTC)
    assert [cell.time for cell in found["load__load"]] == [
        times[0],
        times[2],
        never,
        times[1],
        times[3],
        times[0],
    ]


def test_read__integer_keys(filled: Pair) -> None:
    keys = [{"device_id": number} for number in (2, 1, 2**63 - 1, -(2**63), 3, 2)]
    found = read(filled.ours, ["numbered:number"], keys)
    assert [cell.value for cell in found["number"]] == [20, 10, 40, 30, None, 20]
    assert found["number"][4].status == NOT_FOUND


@pytest.mark.parametrize(
    ("features", "keys"),
    [
        (["load:nothing"], [{"tenant_id": "t1", "asset_id": "1"}]),
        (["nothing:load"], [{"tenant_id": "t1", "asset_id": "1"}]),
        (["load:load"], [{"tenant_id": "t1", "asset_id": "1"}, {"tenant_id": "t1"}]),
        (["load:load", "load_ever:load"], [{"tenant_id": "t1", "asset_id": "1"}]),
        (["scaled:scaled"], [{"tenant_id": "t1", "asset_id": "1"}]),
        ("aliased", [{"tenant_id": "t1", "other_tenant": "t1"}]),
    ],
    ids=str,
)
def test_read__mistakes__same_error(pair: Pair, features: Any, keys: Any) -> None:
    errors = []
    for store in (pair.ours, pair.stock):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
            read(store, features, keys)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    if features == "aliased":
        assert errors[0][0] is FeatureNameCollisionError
