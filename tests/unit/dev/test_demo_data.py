from __future__ import annotations

import csv
import importlib.metadata
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.dev.demo import data
from ai_hub.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, 18, 42, tzinfo=UTC)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[data.DemoSeries]:
    return data.prepare(tmp_path_factory.mktemp("demo"), NOW)


def rows(file: Path) -> list[tuple[datetime, float]]:
    with file.open(newline="") as text:
        return [(datetime.fromisoformat(start), float(value)) for start, value in list(csv.reader(text))[1:]]


def test_prepare__series__end_with_the_last_full_hour_and_have_no_gap(
    prepared: list[data.DemoSeries],
) -> None:
    for series in prepared:
        found = rows(series.file)
        assert len(found) == series.rows > 17_000
        assert found[-1][0] == datetime(2026, 11, 23, 17, tzinfo=UTC)
        assert {b[0] - a[0] for a, b in pairwise(found)} == {timedelta(hours=1)}


def test_prepare__weeks__are_the_newest_of_all(prepared: list[data.DemoSeries], tmp_path: Path) -> None:
    for series, whole in zip(data.prepare(tmp_path, NOW, weeks=12), prepared, strict=True):
        assert series.rows == 12 * 7 * 24
        assert rows(series.file) == rows(whole.file)[-series.rows :]


def test_prepare__tenants__have_their_meters_and_a_weather_station_listed_first(
    prepared: list[data.DemoSeries],
) -> None:
    kinds: dict[str, list[str]] = {}
    for series in prepared:
        kinds.setdefault(series.tenant, []).append(series.kind)
        assert series.role == ("weather" if series.kind == "weather" else "readings")
        assert (series.weather_asset is None) == (series.role == "weather")
    assert kinds == {
        "illinois": ["weather", "electricity", "electricity", "gas", "gas"],
        "uk-home": ["weather", "electricity", "gas"],
    }


def test_prepare__values__are_the_samples_own_moved_by_whole_weeks(prepared: list[data.DemoSeries]) -> None:
    series = next(s for s in prepared if s.asset == "electricity-cooled")
    source = data._read(data.samples_folder() / "il-electricity-cdd-only-hourly.csv.gz")
    found = rows(series.file)
    shift = found[0][0] - source[0][0]
    assert shift % timedelta(weeks=1) == timedelta(0)
    assert [(start - shift, value) for start, value in found] == [
        (start, float(value)) for start, value in source[: len(found)]
    ]


def test_prepare__again_later__adds_the_hours_since(tmp_path: Path) -> None:
    before = data.prepare(tmp_path / "a", NOW, weeks=2)
    after = data.prepare(tmp_path / "b", NOW + timedelta(hours=3), weeks=2)
    for old, new in zip(before, after, strict=True):
        assert rows(new.file)[:-3] == rows(old.file)[3:]


@given(st.integers(0, 41 * 365 * 24))
def test_shift_for__any_present__keeps_weekday_and_season_and_is_the_smallest(hours: int) -> None:
    last = datetime(2018, 2, 8, 6, tzinfo=UTC)
    now = last + timedelta(hours=hours)
    shift = data.shift_for(last, now)
    assert shift % timedelta(weeks=1) == timedelta(0)
    years = shift / timedelta(days=365.2425)
    assert abs(years - round(years)) * 365.2425 <= 3.5
    assert timedelta(0) <= last + shift - now < timedelta(days=365 + 8)


def test_samples_folder__package_missing__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data, "files", missing)
    with pytest.raises(NotFoundError, match=r"ai-hub\[demo\]"):
        data.samples_folder()
