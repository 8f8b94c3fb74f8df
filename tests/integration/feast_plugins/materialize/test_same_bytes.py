"""Redis holds the same keys, fields, values and times to live as after Feast's own materialization."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Set, String, UnixTimestamp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.materialize_lab import DAY, NOON, OURS, STOCK, view
from support.properties import examples
from support.single_precision import SINGLES

if TYPE_CHECKING:
    from feast import FeatureStore
    from support.materialize_lab import Lab

#: Feast type, SQL type and values of each column.
COLUMNS: dict[str, tuple[Any, str, st.SearchStrategy[Any]]] = {
    "f8": (Float64, "float8", st.floats()),
    "f4": (Float32, "float4", SINGLES),
    "f48": (Float32, "float8", st.floats(-1e38, 1e38)),
    "i8": (Int64, "int8", st.integers(-(2**53), 2**53)),
    "i4": (Int32, "int4", st.integers(-(2**31), 2**31 - 1)),
    "i2": (Int32, "int2", st.integers(-(2**15), 2**15 - 1)),
    "b": (Bool, "bool", st.booleans()),
    "t": (String, "text", st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "raw": (Bytes, "bytea", st.binary(min_size=1)),
    "at": (UnixTimestamp, "timestamptz", st.datetimes(datetime(1950, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001
    "naive": (UnixTimestamp, "timestamp", st.datetimes(datetime(1950, 1, 1))),  # noqa: DTZ001
    "day": (UnixTimestamp, "date", st.dates(datetime(1950, 1, 1).date())),  # noqa: DTZ001
    # in quarters: other fractions Feast rounds to a neighbour of the nearest float
    "n": (Float64, "numeric", st.integers(-4000, 4000).map(lambda quarters: Decimal(quarters) / 4)),
    "li": (Array(Int64), "int8[]", st.lists(st.integers(-(2**53), 2**53), min_size=1)),
    "lf": (Array(Float64), "float8[]", st.lists(st.floats(allow_nan=False), min_size=1)),
    "lt": (Array(String), "text[]", st.lists(st.sampled_from("abc"), min_size=1)),
    "si": (Set(Int64), "int8[]", st.lists(st.integers(0, 3), min_size=1, max_size=3)),
}
TYPES = {name: kind for name, (kind, _, _) in COLUMNS.items()}
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", "1", "11", "é", "1|"]) | NAMES,
        st.integers(-(2**63), 2**63 - 1) | st.sampled_from([1, 11]),
        # minutes before the end; some are outside
        st.integers(-60, 60 * 30),
        *(st.none() | values for *_, values in COLUMNS.values()),
    ),
    max_size=8,
    unique_by=lambda row: row[:3],  # of rows with equal times, Feast takes any
)
LATEST = {"materialization": {"pull_latest_features": True}}
NOT_LATE = {"late_seconds": 0}
#: Longer than the views' own, or ours would keep the keys for longer than Feast does.
TTL = {"key_ttl_seconds": 345_600}


@pytest.fixture(scope="module")
def both(lab: Lab) -> tuple[FeatureStore, FeatureStore]:
    """Feast's classes on database 1, ours on 2."""
    lab.execute(
        "CREATE TABLE everything"
        " (tenant_id text, number int8, event_timestamp timestamptz, created timestamptz,"
        + ", ".join(f"{name} {kind}" for name, (_, kind, _) in COLUMNS.items())
        + ")"
    )
    views = [view("everything", TYPES, table="everything", entities=["tenant", "number"])]
    stock = lab.store(*views, db=1, online=TTL, kinds=STOCK, **LATEST)
    return stock, lab.store(*views, db=2, online=TTL, offline=NOT_LATE, engine={"batch_rows": 3})


@settings(max_examples=examples(12), phases=[Phase.generate])
@given(rows=ROWS)
def test_materialize__any_rows__as_feast_does(
    lab: Lab, both: tuple[FeatureStore, FeatureStore], rows: list[tuple[Any, ...]]
) -> None:
    with lab.client() as client:
        client.flushall()
    with psycopg.connect(lab.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE everything")
        places = ", ".join(f"%s::{kind}" for _, kind, _ in COLUMNS.values())
        cursor.executemany(
            f"INSERT INTO everything VALUES (%s, %s, %s, %s, {places})",  # noqa: S608  # constants
            [(*row[:2], NOON - timedelta(minutes=row[2]), NOON, *row[3:]) for row in rows],
        )
    for store in both:
        store.materialize(NOON - DAY, NOON)
    assert lab.content(2) == lab.content(1)
    assert len(lab.content(1)) == len({row[:2] for row in rows if 0 <= row[2] <= 24 * 60})


@pytest.mark.parametrize("ttl", [None, 345_600])
def test_materialize__renamed_columns_entity_less_and_other_shapes__as_feast_does(
    meters: Lab, ttl: int | None
) -> None:
    meters.execute(
        "INSERT INTO meters SELECT 'a' || mod(i, 3), 'b' || i, %(now)s - i * interval '1 minute', %(now)s,"
        " nullif(i, 4) / 3.0, i, repeat('x', i * 40) FROM generate_series(1, 9) AS i",
        {"now": NOON},
    )
    query = (
        'SELECT tenant_id AS who, asset_id AS "What", event_timestamp AS "at", created AS made, load AS l'
        " FROM meters"
    )
    views = [
        view(),
        view("no_created", created=""),
        view(
            "renamed",
            {"load": Float64},
            query=query,
            field_mapping={
                "who": "tenant_id",
                "What": "asset_id",
                "at": "event_timestamp",
                "made": "created",
                "l": "load",
            },
        ),
        view("tenants", entities=["tenant"]),
        view("globe", {"load": Float64, "state": String}, entities=[]),
    ]
    for views_kept in (views, views[::-1]):
        options = {"online": {"key_ttl_seconds": ttl}}
        with meters.client() as client:
            client.flushall()
        stock = meters.store(*views_kept, kinds=STOCK, db=1, **options, **LATEST)
        ours = meters.store(*views_kept, db=2, **options)
        for store in (stock, ours):
            store.materialize(NOON - DAY, NOON)
        assert meters.content(2) == meters.content(1)
        assert len(meters.content(1)) == 9 + 3 + 1


def test_read__each_store_reads_what_the_other_wrote(meters: Lab) -> None:
    meters.execute(
        "INSERT INTO meters VALUES ('t', 'a', %(now)s, %(now)s, 1.5, 7, 'on'),"
        " ('t', 'b', %(now)s, %(now)s, NULL, NULL, NULL)",
        {"now": datetime.now(UTC)},
    )
    stock = meters.store(view(), kinds=STOCK, db=1, **LATEST)
    ours = meters.store(view(), db=2)
    rows = [{"tenant_id": "t", "asset_id": asset} for asset in ("a", "b")]
    answers = []
    for writer, reader_db in ((stock, 1), (ours, 2)):
        writer.materialize(datetime.now(UTC) - DAY, datetime.now(UTC))
        for kinds in (STOCK, None):
            reader = meters.store(view(), db=reader_db, **({"kinds": kinds} if kinds else {}))
            features = ["meters:load", "meters:count", "meters:state"]
            answers.append(reader.get_online_features(features, rows).to_dict())
    assert answers == [answers[0]] * 4
    assert answers[0]["state"] == ["on", None]


def test_materialize__versioned_views__as_feast_does(meters: Lab) -> None:
    meters.execute("INSERT INTO meters VALUES ('t', 'a', %(now)s, %(now)s, 1.5, 7, 'on')", {"now": NOON})
    for kinds, db in ((STOCK, 1), (OURS, 2)):
        registry = {
            "path": str(meters.folder / f"versions-{db}.db"),
            "enable_online_feature_view_versioning": True,
        }
        if kinds is OURS:  # whose own store reads no versions
            kinds = (OURS[0], STOCK[1], OURS[2])  # noqa: PLW2901
        store = meters.store(view(), kinds=kinds, db=db, registry=registry, **LATEST)
        store.apply([view(schema={"load": Float64, "state": String})])
        store.materialize(NOON - DAY, NOON)
    assert meters.content(2) == meters.content(1)
    assert any(b"_ts:meters_v1" in fields for fields, _ in meters.content(1).values())


@pytest.mark.parametrize("first", [0, 1])
def test_materialize__views_of_one_key__it_lives_as_long_as_the_most_patient_wants(
    meters: Lab, first: int
) -> None:
    meters.execute("INSERT INTO meters VALUES ('t', 'a', %(now)s, %(now)s, 1.5, 7, 'on')", {"now": NOON})
    views = [view(ttl=9 * DAY), view(name="hasty", ttl=DAY / 24)]
    store = meters.store(*views, db=2, online={"key_ttl_seconds": 3600})
    for item in (views[first], views[1 - first]):
        store.materialize(NOON - DAY, NOON, feature_views=[item.name])
    with meters.client(2) as client:
        (key,) = client.scan_iter()
        assert client.ttl(key) > 8 * DAY.total_seconds()
