"""History: stock and ours give the same rows, and both what a slow loop over the rows finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from conformance.compare import assert_same, canonical, column, records, rows
from conformance.history import DEVICES, FEATURES, FRAMES, QUERIES, Request, expected
from conformance.rows import KINDS, READABLE, plain
from conformance.stores import JOINS, STOCK, shipped
from feast.errors import (
    FeatureNameCollisionError,
    RequestDataNotFoundInEntityDfException,
)

if TYPE_CHECKING:
    from conformance.stores import Hosts, Pair

pytestmark = [
    # how stock finds out the columns of a query, and uploads times
    pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy:UserWarning"),
    pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds:UserWarning"),
]

FULL = {"full_feature_names": True}
KNOWN = {"filter_by_created_timestamp": True}
#: Those of views that the frames have the keys of.
NAMES = [name for name in FEATURES if not name.startswith("range")]
BY_FEATURES = [
    Request(features, frame, FULL if features == "aliased" else {})
    for features in NAMES
    for frame in ("full", "query")
]
BY_SHAPE = [Request("several views", frame, FULL) for frame in [*FRAMES, *QUERIES]]
BY_OPTION = [Request(features, "shuffled", FULL | KNOWN) for features in NAMES]


@pytest.fixture(scope="module", autouse=True)
def asked(address: str) -> None:
    """The frame "full" as a table."""
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE asked (tenant_id text, asset_id text, event_timestamp timestamptz,"
            " other_tenant text, factor float8)"
        )
        cursor.executemany(
            "INSERT INTO asked VALUES (%s, %s, %s, %s, %s)", FRAMES["full"].to_numpy().tolist()
        )


@pytest.mark.parametrize("request_", BY_FEATURES + BY_SHAPE + BY_OPTION, ids=str)
def test_history__same_columns_types_and_rows(pair: Pair, request_: Request) -> None:
    stock = request_.run(pair.stock)
    for store in pair.joins.values():
        assert_same(request_.run(store), stock)


@pytest.mark.parametrize("frame", list(FRAMES))
def test_history__rows_of_the_frame_stay_as_they_are(pair: Pair, frame: str) -> None:
    given = pa.Table.from_pandas(FRAMES[frame], preserve_index=False)
    for store in pair.joins.values():
        found = Request("several views", frame, FULL).run(store)
        assert found.column_names[: given.num_columns] == given.column_names
        for name in given.column_names:
            assert column(found, name) == column(given, name)


@pytest.mark.parametrize("known", [False, True], ids=["as it is", "as it was known"])
@pytest.mark.parametrize("store", ["stock", *JOINS])
def test_history__equals_the_slow_loop(pair: Pair, store: str, known: bool) -> None:
    request = Request("loop", "shuffled", FULL | {"filter_by_created_timestamp": known})
    found = request.run(pair.joins.get(store, pair.stock))
    assert found.num_rows == len(FRAMES["shuffled"])
    for row in records(found.column_names, rows(found)):
        for feature in FEATURES["loop"]:
            want = canonical(expected(feature, row, known=known))
            assert row[feature.replace(":", "__")] == want, (feature, row)


@pytest.mark.parametrize("name", READABLE)
def test_history__types(pair: Pair, name: str) -> None:
    entities = DEVICES
    features = [f"typed:f_{name}"]
    stock = pair.stock.get_historical_features(entities, features).to_arrow()
    want = [canonical(plain(value)) for value in KINDS[name].examples]
    for store in pair.joins.values():
        ours = store.get_historical_features(entities, features).to_arrow()
        assert_same(ours, stock)
        assert column(ours, f"f_{name}") == [*want, None]


def error(request: Request, store: Any) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
        request.run(store)
    return caught.value


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Request("aliased", "full"), FeatureNameCollisionError),
        (Request("pandas", "without request data"), RequestDataNotFoundInEntityDfException),
    ],
    ids=str,
)
def test_history__mistakes__same_error(pair: Pair, request_: Request, kind: type[Exception]) -> None:
    ours, stock = error(request_, pair.ours), error(request_, pair.stock)
    assert type(ours) is type(stock) is kind
    assert str(ours) == str(stock)


def test_history__metadata(pair: Pair) -> None:
    jobs = [
        store.get_historical_features(FRAMES["berlin"], FEATURES["several views"])
        for store in (pair.ours, pair.stock)
    ]
    ours, stock = (job.metadata for job in jobs)
    assert ours.features == stock.features
    assert sorted(ours.keys) == sorted(stock.keys)
    assert ours.min_event_timestamp == stock.min_event_timestamp
    assert ours.max_event_timestamp == stock.max_event_timestamp
    assert [job.full_feature_names for job in jobs] == [False, False]


@pytest.mark.parametrize("entities", ["berlin", "naive", "query"])
def test_history__session_in_another_zone(hosts: Hosts, pair: Pair, address: str, entities: str) -> None:
    """Naive times are UTC, not the server's."""
    role = {"user": f"zone_{entities}", "password": "zone"}
    with psycopg.connect(address) as connection:
        connection.execute(f"CREATE ROLE zone_{entities} SUPERUSER LOGIN PASSWORD 'zone'")
        connection.execute(f"ALTER ROLE zone_{entities} SET timezone = 'America/Chicago'")
    request = Request("several views", entities)
    stock = request.run(pair.stock)
    assert_same(request.run(hosts.open(STOCK, offline=role)), stock)
    for join in JOINS:
        assert_same(request.run(hosts.open(shipped(), offline=role | {"join_strategy": join})), stock)


def test_history__stock_that_embeds_the_query(hosts: Hosts, pair: Pair) -> None:
    """Stock's other way to use a query."""
    embedding = hosts.open(STOCK, offline={"entity_select_mode": "embed_query"})
    request = Request("everything", "query", FULL)
    assert_same(request.run(pair.ours), request.run(embedding))
