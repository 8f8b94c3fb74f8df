"""Requests: which are refused, and which are equal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from ai_hub.errors import BadInputError
from ai_hub.exports.export import Request

START = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = Request("city-works", "forecast_basic", START, START + timedelta(days=1))
ID = UUID("0f2c6a52-9b1e-4a0e-8a50-3f4f0a6f7d55")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"end": START}, "empty"),
        ({"end": START - timedelta(microseconds=1)}, "empty"),
        ({"start": datetime(2100, 1, 1, tzinfo=UTC), "end": datetime(2101, 1, 1, tzinfo=UTC)}, "future"),
        ({"start": datetime(1999, 1, 1, tzinfo=UTC)}, "longer than ten years"),
        ({"output_path": "../x.parquet"}, "leads upwards"),
    ],
    ids=["empty", "reversed", "future", "long", "path"],
)
def test_request_that_cannot_be_done__is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(BadInputError, match=problem):
        replace(REQUEST, **changes).check()  # type: ignore[arg-type]


def test_end_in_the_future__is_taken() -> None:
    replace(REQUEST, end=datetime.now(UTC) + timedelta(days=1)).check()


def test_equal_requests__have_one_hash() -> None:
    berlin = timezone(timedelta(hours=1))
    same = replace(REQUEST, start=START.astimezone(berlin), end=REQUEST.end.astimezone(berlin))
    assert same.hash == REQUEST.hash
    assert replace(REQUEST, assets=("b", "a", "b")).hash == replace(REQUEST, assets=("a", "b")).hash


def test_any_difference__gives_another_hash() -> None:
    others = [
        replace(REQUEST, tenant="grid-two"),
        replace(REQUEST, feature_set="forecast_advanced"),
        replace(REQUEST, start=START + timedelta(hours=1)),
        replace(REQUEST, end=START + timedelta(hours=2)),
        replace(REQUEST, assets=("a", "b")),
        replace(REQUEST, assets=("a,b",)),
        replace(REQUEST, output_path="x.parquet"),
        replace(REQUEST, partition_by="month"),
    ]
    assert len({REQUEST.hash, *(each.hash for each in others)}) == len(others) + 1


def test_path__is_made_up_where_none_is_given() -> None:
    name = "unnamed/forecast_basic/20260101T0000_20260102T0000_0f2c6a529b1e4a0e8a503f4f0a6f7d55"
    assert REQUEST.path(ID) == f"{name}.parquet"
    assert replace(REQUEST, partition_by="month").path(ID) == name
    assert replace(REQUEST, output_path="x.parquet").path(ID) == "x.parquet"
