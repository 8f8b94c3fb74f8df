from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.properties import examples

from feast_plugins.offline.as_of import AsOf, KeySpace, newest_rows
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.views import ViewRead, collect
from feast_plugins.postgres.session import TIME

START = datetime(2026, 10, 24, 22, tzinfo=UTC)
# pairs whose concatenation is the same, and names with separators, spaces and nothing in them
KEYS = st.tuples(st.sampled_from(["1", "11", "", "a|b", "ü "]), st.sampled_from(["1", "11", "", "b", "|b"]))
# half hours around the end of summer time in Berlin, in several zones: instants are what counts
MINUTES = st.tuples(st.integers(0, 12), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"])).map(
    lambda drawn: (START + timedelta(minutes=30 * drawn[0])).astimezone(ZoneInfo(drawn[1]))
)
ENTITIES = st.lists(st.tuples(KEYS, MINUTES), min_size=1, max_size=20)
TTLS = st.sampled_from([None, 0, 30, 90])


def read_of(ttl: timedelta | None, *, created: bool, superseded: bool = False) -> ViewRead:
    return ViewRead(
        view="v",
        source="v",
        keys={"t": "tenant_id", "a": "asset_id"},
        features=("position",),
        names={},
        time="time",
        created="created" if created else None,
        ttl=ttl,
        superseded="ended" if superseded else None,
    )


def instants(rows: list[Any]) -> list[Any]:
    """The same in UTC: Python compares two times of one zone by the clock on the wall."""
    return [
        tuple(part.astimezone(UTC) if isinstance(part, datetime) else part for part in row) for row in rows
    ]


def join(
    entities: list[Any], rows: list[Any], read: ViewRead, *, filter_by_created: bool = False
) -> list[int | None]:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    entity_rows = Entities(
        pa.table(
            {
                "t": [key[0] for key, _ in entities],
                "a": [key[1] for key, _ in entities],
                "at": pa.array([at and at.astimezone(UTC) for _, at in entities], TIME),
            }
        ),
        "at",
    )
    table = pa.table(
        {
            "tenant_id": pa.array([key[0] for key in columns[0]], pa.string()),
            "asset_id": pa.array([key[1] for key in columns[0]], pa.string()),
            "time": pa.array(columns[1], TIME),
            "created": pa.array(columns[2], TIME),
            "ended": pa.array(columns[3], TIME),
            # rows of other keys are left out while they are read, so a row carries its own position
            "position": pa.array(range(len(rows)), pa.int64()),
        }
    )
    space, as_of = entity_rows.resolve_keys(("t", "a"), (pa.string(), pa.string()))
    view_rows = collect(read, space, table.to_reader(max_chunksize=7))
    indices = newest_rows(as_of, view_rows, read.ttl, filter_by_created=filter_by_created)
    positions: list[int | None] = view_rows.features["position"].combine_chunks().take(indices).to_pylist()
    return positions


@given(ENTITIES, st.lists(st.tuples(KEYS, MINUTES, MINUTES, st.none()), max_size=40), TTLS, st.booleans())
def test_newest_rows__any_keys_and_times__equal_a_search_row_by_row(
    entities: list[Any], rows: list[Any], ttl: int | None, created: bool
) -> None:
    ttl_time = None if ttl is None else timedelta(minutes=ttl)
    positions = join(entities, rows, read_of(ttl_time, created=created))
    entities, rows = instants(entities), instants(rows)
    for (key, at), position in zip(entities, positions, strict=True):
        reach = [
            (time, created_at) if created else (time,)
            for row_key, time, created_at, _ in rows
            if row_key == key and time <= at and (ttl_time is None or at - time <= ttl_time)
        ]
        if not reach:
            assert position is None
            continue
        assert position is not None
        row_key, time, created_at, _ = rows[position]
        assert row_key == key
        assert ((time, created_at) if created else (time,)) == max(reach)


# few keys, so that they have many versions
FEW_KEYS = st.sampled_from([("1", "11"), ("11", "1"), ("", "b")])
#: Times at which a row came to be something else, and whether it was there from then on.
LIVES = st.dictionaries(
    st.tuples(FEW_KEYS, MINUTES.map(lambda at: at.astimezone(UTC))),
    st.dictionaries(MINUTES.map(lambda at: at.astimezone(UTC)), st.booleans(), min_size=1, max_size=6),
    max_size=12,
)


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """Versions with the times they were superseded, in any order; a row may go and come back."""
    rows = []
    for (key, time), turns in draw(LIVES).items():
        order = sorted(turns)
        for created_at, ended in zip(order, [*order[1:], None], strict=True):
            if turns[created_at]:
                rows.append((key, time, created_at, ended))
    return draw(st.permutations(rows))


@settings(max_examples=examples(50))
@given(ENTITIES, histories(), TTLS)
def test_newest_rows__as_known__equal_a_search_among_what_was_not_superseded(
    entities: list[Any], rows: list[Any], ttl: int | None
) -> None:
    entities = [*entities, *((key, at) for key, *_ in rows for _, at in entities[:3])]
    ttl_time = None if ttl is None else timedelta(minutes=ttl)
    positions = join(entities, rows, read_of(ttl_time, created=True, superseded=True), filter_by_created=True)
    entities, rows = instants(entities), instants(rows)
    for (key, at), position in zip(entities, positions, strict=True):
        versions = [
            (time, index)
            for index, (row_key, time, created_at, ended) in enumerate(rows)
            if row_key == key and time <= at and created_at <= at and (ended is None or ended > at)
        ]
        newest = max(versions, default=None)
        if newest is None or (ttl_time is not None and at - newest[0] > ttl_time):
            assert position is None
        else:
            assert position == newest[1]


PLAIN = st.lists(st.tuples(FEW_KEYS, MINUTES, st.none() | MINUTES, st.none()), max_size=40)


@settings(max_examples=examples(50))
@given(ENTITIES, PLAIN, TTLS)
def test_newest_rows__as_known_without_ends__equal_a_search_among_what_was_created(
    entities: list[Any], rows: list[Any], ttl: int | None
) -> None:
    entities = [*entities, *((key, entities[0][1]) for key, *_ in rows)]
    ttl_time = None if ttl is None else timedelta(minutes=ttl)
    positions = join(entities, rows, read_of(ttl_time, created=True), filter_by_created=True)
    entities, rows = instants(entities), instants(rows)
    for (key, at), position in zip(entities, positions, strict=True):
        # of equal rows the later in the source wins; one without a created timestamp is never read
        versions = [
            (time, created_at, index)
            for index, (row_key, time, created_at, _) in enumerate(rows)
            if row_key == key and created_at is not None and time <= at and created_at <= at
        ]
        newest = max(versions, default=None)
        if newest is None or (ttl_time is not None and at - newest[0] > ttl_time):
            assert position is None
        else:
            assert position == newest[2]


def test_newest_rows__three_keys_and_missing_parts__never_meet_others() -> None:
    read = ViewRead(
        view="v", source="v", keys={"x": "x", "y": "y", "z": "z"}, features=(), names={}, time="time",
        created=None, ttl=None,
    )  # fmt: skip
    parts = [("a", "b", "c"), ("a", "b", None), (None, "b", "c"), ("a", None, "c"), ("b", "a", "c")]
    columns = dict(
        zip("xyz", (pa.array(part, pa.string()) for part in zip(*parts, strict=True)), strict=True)
    )
    rows = pa.table({**columns, "time": pa.array([START] * len(parts), TIME)})
    space = KeySpace([pa.chunked_array([column]) for column in columns.values()], len(parts))
    times = np.full(len(parts), int(START.timestamp() * 1_000_000))
    as_of = AsOf.of(space.rows, times)
    positions = newest_rows(as_of, collect(read, space, rows.to_reader()), None).to_pylist()
    assert positions == [0, None, None, None, 1]  # rows with a null in their key are filtered out


@pytest.mark.parametrize("filter_by_created", [False, True])
def test_newest_rows__entity_row_without_a_time__has_no_answer(filter_by_created: bool) -> None:
    rows = [(("1", "1"), START, START, None)]
    times: list[Any] = [(("1", "1"), None), (("1", "1"), START)]
    assert join(times, rows, read_of(None, created=True), filter_by_created=filter_by_created) == [None, 0]
    assert join(times, [], read_of(None, created=True), filter_by_created=filter_by_created) == [None, None]
