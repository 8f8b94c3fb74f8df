"""Materialization: the same bytes in Redis, whichever class writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conformance.online import client, contents, read
from conformance.repository import ASSET, LOAD_EVER, TENANT
from conformance.rows import HOUR, T0
from conformance.stores import STOCK, shipped

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.stores import Hosts, Pair

SPANS = {
    "all": (T0 - 40 * HOUR, T0 + 9 * HOUR),
    "up to a row": (T0 - 40 * HOUR, T0 - HOUR),
    "nothing": (T0 + 90 * HOUR, T0 + 99 * HOUR),
}
VIEWS = ["load", "load_ever", "load_good", "price", "price_naive", "typed", "renamed", "unmarked"]


@pytest.fixture(autouse=True)
def emptied(hosts: Hosts) -> None:
    for db in (3, 4):
        with client(hosts, db) as connection:
            connection.flushdb()


def write(hosts: Hosts, classes: dict[str, Any], db: int, views: list[str], span: str, **options: Any) -> Any:
    store = hosts.open(classes, db=db, **options)
    start, end = SPANS[span]
    store.materialize(start, end, feature_views=views)
    return contents(hosts, db)


@pytest.mark.parametrize("latest", [False, True], ids=["all rows", "latest rows"])
@pytest.mark.parametrize("span", list(SPANS))
def test_materialize__same_bytes(pair: Pair, hosts: Hosts, span: str, latest: bool) -> None:
    del pair
    options = {"materialization": {"pull_latest_features": latest}}
    for name in VIEWS:
        ours = write(hosts, shipped(), 3, [name], span, **options)
        stock = write(hosts, STOCK, 4, [name], span, **options)
        assert ours == stock, name
        assert bool(stock) == (span != "nothing"), name


def test_materialize__each_class_of_ours_with_the_others_of_stock(pair: Pair, hosts: Hosts) -> None:
    del pair
    stock = write(hosts, STOCK, 4, VIEWS, "all")
    for part, ours in shipped().items():
        with client(hosts, 3) as connection:
            connection.flushdb()
        assert write(hosts, STOCK | {part: ours}, 3, VIEWS, "all") == stock, part


def test_materialize__either_reads_what_the_other_wrote(pair: Pair, hosts: Hosts) -> None:
    del pair
    write(hosts, shipped(), 3, VIEWS, "all")
    write(hosts, STOCK, 4, VIEWS, "all")
    keys = [{"device_id": number} for number in (3, 1, 4, 2)]
    features = [f"typed:{field.name}" for field in hosts.open(STOCK).get_feature_view("typed").features]
    answers = [
        read(hosts.open(classes, db=db), features, keys) for db in (3, 4) for classes in (shipped(), STOCK)
    ]
    values = [
        {name: [repr(cell.value) for cell in cells] for name, cells in answer.items()} for answer in answers
    ]
    assert values[0] == values[1] == values[2] == values[3]
    assert values[0].keys() == {"device_id", *(name.removeprefix("typed:") for name in features)}


def test_materialize_incremental__goes_on_where_it_ended(pair: Pair, hosts: Hosts, tmp_path: Path) -> None:
    del pair
    found = []
    for db, classes, offline in ((3, shipped(), {"late_seconds": 0}), (4, STOCK, {})):
        store = hosts.open(classes, db=db, registry=str(tmp_path / f"{db}.db"), offline=offline)
        store.apply([TENANT, ASSET, LOAD_EVER])
        for end in (T0 - 2 * HOUR, T0 - HOUR, T0 + HOUR):
            store.materialize_incremental(end)
            found.append(contents(hosts, db))
        spans = store.get_feature_view("load_ever").materialization_intervals
        assert [end for _, end in spans] == [T0 - 2 * HOUR, T0 - HOUR, T0 + HOUR]
    assert found[:3] == found[3:]
    assert found[0] != found[1] != found[2]
