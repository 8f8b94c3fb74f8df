from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feast_plugins.offline import as_of as module
from feast_plugins.offline.as_of import NO_TIME, KeySpace, SortKey

PARTS = st.none() | st.sampled_from(["", "1", "11", "a|b", "\u00e9", "e\u0301", " "])
KEYS = st.lists(st.tuples(PARTS, PARTS, PARTS), max_size=30)


def columns(keys: list[Any]) -> list[pa.ChunkedArray]:
    parts = list(zip(*keys, strict=True)) or [()] * 3
    return [pa.chunked_array([pa.array(part, pa.string())]) for part in parts]


@given(KEYS, KEYS, st.booleans())
def test_find__any_keys__gives_the_number_of_the_equal_key_alone(
    keys: list[Any], others: list[Any], searching: bool
) -> None:
    table = module._TABLE
    module._TABLE = 0 if searching else table  # many combinations are searched, few looked up in a table
    try:
        space = KeySpace(columns(keys), len(keys))
    finally:
        module._TABLE = table
    numbers: dict[Any, int] = {}
    for key, number in zip(keys, space.rows.tolist(), strict=True):
        if None in key:
            assert number == -1
        else:
            assert numbers.setdefault(key, number) == number
    assert sorted(numbers.values()) == list(range(space.count))
    result = space.find(columns(others), len(others)).tolist()
    assert result == [numbers.get(key, -1) for key in others]


def test_key_space__no_parts__all_rows_have_the_same_key() -> None:
    space = KeySpace([], 3)
    assert space.rows.tolist() == [0, 0, 0]
    assert space.find([], 2).tolist() == [0, 0]


# so far apart that their differences, times the number of keys, are too large for one number
TIMES = st.sampled_from([-(2**61), -1, 0, 1, 3_600_000_000, 2**61]) | st.integers(-5, 5)
ROWS = st.lists(st.tuples(st.integers(0, 4), TIMES), min_size=1, max_size=30)


@given(ROWS)
def test_joint__any_times__keeps_the_order_of_key_and_time(rows: list[tuple[int, int]]) -> None:
    keys, times = (np.array(part, np.int64) for part in zip(*rows, strict=True))
    sort_key = SortKey.of(5, times)
    joint = sort_key.joint(keys, times).tolist()
    for (one, first), (other, second) in pairwise(sorted(zip(rows, joint, strict=True))):
        assert (one < other) == (first < second)
    again = sort_key.split(np.array(joint))
    assert list(zip(*(part.tolist() for part in again), strict=True)) == rows


@given(ROWS, st.integers(-(2**62), 2**62) | st.just(NO_TIME))
def test_joint__a_time_between__counts_as_the_rows_time_before(rows: list[tuple[int, int]], at: int) -> None:
    keys, times = (np.array(part, np.int64) for part in zip(*rows, strict=True))
    sort_key = SortKey.of(5, times)
    limit = sort_key.joint(np.array([2]), np.array([at]))[0]
    for key, time, joint in zip(keys, times, sort_key.joint(keys, times), strict=True):
        assert (joint <= limit) == ((key, time) <= (2, at))
