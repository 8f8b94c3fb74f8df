"""Planted faults in made-up meters, at drawn places; and none where nothing is planted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import pytest

from ai_hub.ingest.options import FindingKind
from ai_hub.ingest.suspects import (
    CONTEXT,
    REACH,
    Meter,
    _days,
    frozen_weather,
    suspects,
    unit_factors,
)
from ai_hub.times import Micros, from_micros, to_micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_hub.ingest.findings import Finding

Values: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
HOUR = 3_600_000_000
BERLIN = Meter("electricity", "Europe/Berlin")
DAYS = 150
#: What is planted begins in these days: there is a past, and a future.
DRAWN = (40, 120)


def hours(days: int = DAYS) -> Micros:
    first = to_micros(pd.Timestamp("2025-01-06", tz="UTC").to_pydatetime())
    return first + np.arange(days * 24) * HOUR


def household(seed: int, times: Micros, *, noise: float = 0.15) -> Values:
    """Two peaks a day in local time, less at night, more on weekends; never the same twice."""
    random = np.random.default_rng(seed)
    local = pd.DatetimeIndex(times.view("M8[us]"), tz="UTC").tz_convert("Europe/Berlin")
    hour = local.hour.to_numpy()
    profile = (
        0.4 + 0.9 * np.exp(-(((hour - 8) / 2.0) ** 2)) + 1.6 * np.exp(-(((hour - 19) / 2.5) ** 2))
    ) * np.where(local.dayofweek >= 5, 1.2, 1.0)
    return np.asarray(profile * random.lognormal(0, noise, len(times)))


def elevation(times: Micros) -> Values:
    """Dark from 21 to 3 UTC."""
    hour = times // HOUR % 24
    return np.where((hour >= 21) | (hour < 3), -20.0, 20.0)


def solar(seed: int, times: Micros) -> Values:
    random = np.random.default_rng(seed)
    hour = times // HOUR % 24
    shape = np.clip(np.sin((hour - 5) / 14 * np.pi), 0, None) * ((hour >= 5) & (hour <= 19))
    clouds = np.repeat(random.uniform(0.3, 1, len(times) // 24 + 1), 24)[: len(times)]
    return np.asarray(4 * shape * clouds * random.uniform(0.8, 1, len(times)))


def place(random: np.random.Generator) -> int:
    return int(random.integers(DRAWN[0] * 24, DRAWN[1] * 24))


def of_kind(found: list[Finding], kind: FindingKind) -> list[Finding]:
    return [finding for finding in found if finding.kind is kind]


def test_suspects__clean_meters__are_none() -> None:
    times = hours(730)
    assert suspects(times, household(0, times), BERLIN) == []
    assert suspects(times, household(1, times, noise=0.4), BERLIN) == []
    assert suspects(times, solar(2, times), Meter("solar", "UTC", elevation=elevation)) == []


@pytest.mark.parametrize("days", [0, 1 / 24, 1, 3])
def test_suspects__short_series__are_none(days: float) -> None:
    times = hours()[: int(days * 24)]
    assert suspects(times, household(1, times), BERLIN) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("code", [4294967.295, 4294967295.0, 42949672.95, 65535.0, 655.35, 99999.0, -9999.0])
def test_suspects__error_code__is_found_and_nothing_else(seed: int, code: float) -> None:
    times, random = hours(), np.random.default_rng(seed)
    values, start, count = household(seed, times), place(random), int(random.integers(1, 30))
    values[start : start + count] = code
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["value"]) == (FindingKind.ERROR_CODE, code)
    assert (found.first, found.last) == (from_micros(times[start]), from_micros(times[start + count - 1]))


def test_suspects__digits_of_a_code_within_the_usual__are_none() -> None:
    times = hours()
    values = household(1, times) * 60_000
    at = int(np.argmin(np.abs(values - 65_535)))
    values[at] = 65_535
    assert suspects(times, values, BERLIN) == []


def test_suspects__digits_of_a_code_in_the_first_days__are_none() -> None:
    times = hours()[:96]
    values = household(1, times) * 60
    values[50] = 99.99
    assert suspects(times, values, BERLIN) == []
    assert suspects(times[50:51], values[50:51], BERLIN) == []
    values[50] = 65_535
    assert [found.kind for found in suspects(times, values, BERLIN)] == [FindingKind.ERROR_CODE]
    values[50] = -99.99
    assert [found.kind for found in suspects(times, values, BERLIN)] == [FindingKind.ERROR_CODE]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("days", "back"), [(1, 1), (2, 7), (3, 20)])
def test_suspects__copied_days__are_found_with_their_source(seed: int, days: int, back: int) -> None:
    times, values = hours(), household(seed, hours())
    start = place(np.random.default_rng(seed))
    source, count = start - max(back, days) * 24, days * 24
    values[start : start + count] = values[source : source + count]
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["copy_of"]) == (
        FindingKind.COPIED,
        from_micros(times[source]).isoformat(),
    )
    assert (found.first, found.last) == (from_micros(times[start]), from_micros(times[start + count - 1]))


def test_suspects__series_that_follows_a_schedule__is_not_copied() -> None:
    times = hours()
    values = np.tile(household(3, times)[:168], DAYS // 7 + 1)[: len(times)]
    assert of_kind(suspects(times, values, BERLIN), FindingKind.COPIED) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("factor", [1000.0, 100.0, 0.01, 0.001])
@pytest.mark.parametrize("days", [3, 10, None])
def test_suspects__unit_jump__is_found_from_its_first_to_its_last_reading(
    seed: int, factor: float, days: int | None
) -> None:
    times, values = hours(), household(seed, hours())
    start = place(np.random.default_rng(seed))
    end = len(times) if days is None else start + days * 24
    values[start:end] *= factor
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["factor"]) == (FindingKind.UNIT_JUMP, factor)
    assert (found.first, found.last) == (from_micros(times[start]), from_micros(times[end - 1]))


def test_suspects__unit_jump_before_an_outage__ends_there() -> None:
    times, values = hours(), household(1, hours())
    start, outage, end = 1000, 1000 + 72, 1000 + 72 + 32 * 24
    values[start:outage] *= 1000
    kept = np.r_[0:outage, end : len(times)]
    [found] = suspects(times[kept], values[kept], BERLIN)
    assert (found.kind, found.detail["factor"]) == (FindingKind.UNIT_JUMP, 1000)
    assert (found.first, found.last) == (from_micros(times[start]), from_micros(times[outage - 1]))


def test_unit_factors__steps_up_and_down__are_those_of_each_day_alone() -> None:
    """Another exponent begins and ends several times, also straight from one to another."""
    times, values = hours(), household(2, hours())
    expected = np.ones(len(values))
    steps = ((1000, 1100, 1000), (1100, 1300, 100), (1700, 1800, 0.001), (2500, 3600, 100))
    for first, last, factor in steps:
        expected[first:last] = factor
    days = _days(times, "Europe/Berlin")
    assert np.array_equal(unit_factors(values * expected, days), expected)


def test_suspects__six_hours_in_another_unit__are_a_unit_jump() -> None:
    times, values = hours(), household(5, hours())
    values[1500:1506] *= 1000
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["readings"]) == (FindingKind.UNIT_JUMP, 6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("shift", "days"), [(6, 10), (-3, 14), (1, 30), (-2, None), (12, 12)])
def test_suspects__clock_shift__is_found_to_within_a_day(seed: int, shift: int, days: int | None) -> None:
    times, values = hours(), household(seed, hours())
    start = place(np.random.default_rng(seed)) // 24 * 24
    end = len(times) - 12 if days is None else start + days * 24
    shifted = values.copy()
    shifted[start:end] = values[np.arange(start, end) - shift]
    found = of_kind(suspects(times, shifted, BERLIN), FindingKind.CLOCK_SHIFT)
    assert [finding.detail["hours"] for finding in found] == [shift if shift != 12 else -12]
    assert abs(to_micros(found[0].first) - times[start]) <= 36 * HOUR
    assert abs(to_micros(found[0].last) - times[end - 1]) <= 36 * HOUR


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shift", [6, -3])
def test_suspects__clock_shift_of_a_home_whose_days_differ__is_found(seed: int, shift: int) -> None:
    times, values = hours(), household(seed, hours(), noise=0.7)
    assert suspects(times, values, BERLIN) == []
    start, end = 60 * 24, 74 * 24
    shifted = values.copy()
    shifted[start:end] = values[np.arange(start, end) - shift]
    [found] = suspects(times, shifted, BERLIN)
    assert (found.kind, found.detail["hours"]) == (FindingKind.CLOCK_SHIFT, shift)
    assert abs(to_micros(found.first) - times[start]) <= 60 * HOUR
    assert abs(to_micros(found.last) - times[end - 1]) <= 60 * HOUR


@pytest.mark.parametrize("seed", [0, 12])
def test_suspects__clock_shift_of_an_hour_that_two_weeks_do_not_show__is_found_by_four(seed: int) -> None:
    times, values = hours(), household(seed, hours(), noise=0.6)
    start, end = 60 * 24, 120 * 24
    shifted = values.copy()
    shifted[start:end] = values[np.arange(start, end) - 1]
    [found] = suspects(times, shifted, BERLIN)
    assert (found.kind, found.detail["hours"]) == (FindingKind.CLOCK_SHIFT, 1)


def test_suspects__hours_that_only_chance_tells_apart__have_no_clock_shift() -> None:
    times = hours(4 * 365)
    values = np.random.default_rng(5).lognormal(0, 1, len(times))
    assert of_kind(suspects(times, values, BERLIN), FindingKind.CLOCK_SHIFT) == []


def test_suspects__clock_that_ignores_daylight_saving__is_a_clock_shift() -> None:
    times, values = hours(), household(7, hours())
    change = int(np.searchsorted(times, to_micros(pd.Timestamp("2025-03-30T01:00Z").to_pydatetime())))
    values[change:] = values[np.arange(change, len(times)) - 1]
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["hours"]) == (FindingKind.CLOCK_SHIFT, 1)
    assert abs(to_micros(found.first) - times[change]) <= 36 * HOUR


def test_suspects__clock_shift_before_an_outage__ends_there() -> None:
    times, values = hours(), household(1, hours())
    start, outage, end = 40 * 24, 54 * 24, 86 * 24
    shifted = values.copy()
    shifted[start:outage] = values[np.arange(start, outage) - 6]
    kept = np.r_[0:outage, end : len(times)]
    [found] = suspects(times[kept], shifted[kept], BERLIN)
    assert (found.kind, found.detail["hours"]) == (FindingKind.CLOCK_SHIFT, 6)
    assert to_micros(found.last) <= times[outage]


def test_suspects__load_in_local_time_of_an_asset_in_utc__has_not_shifted() -> None:
    times, values = hours(365), household(7, hours(365))
    utc = Meter("electricity", "UTC")
    assert suspects(times, values, utc) == []
    # at another time of the year it is one
    shifted = values.copy()
    shifted[24 * 40 : 24 * 70] = values[np.arange(24 * 40, 24 * 70) - 1]
    assert {found.detail["hours"] for found in suspects(times, shifted, utc)} == {1}
    assert suspects(times, shifted, utc, clock=False) == []


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.5), (5, 0.6), (6, 0.7)])
def test_suspects__noisy_load_in_local_time_of_an_asset_in_utc__has_not_shifted(
    seed: int, noise: float
) -> None:
    # its shift of an hour in summer is seen late, or not all the time
    times = hours(365)
    assert suspects(times, household(seed, times, noise=noise), Meter("electricity", "UTC")) == []


@pytest.mark.parametrize("start", [81, 150])
def test_suspects__clock_shift_of_local_load_of_an_asset_in_utc__is_found_alone(start: int) -> None:
    times, values = hours(365), household(7, hours(365))
    # the first one begins when clocks change
    part = np.arange(24 * start, 24 * (start + 30))
    shifted = values.copy()
    shifted[part] = values[part - 1]
    [found] = suspects(times, shifted, Meter("electricity", "UTC"))
    assert (found.kind, found.detail["hours"]) == (FindingKind.CLOCK_SHIFT, 1)
    assert abs(to_micros(found.first) - times[part[0]]) <= 36 * HOUR
    assert abs(to_micros(found.last) - times[part[-1]]) <= 36 * HOUR


def test_suspects__solar_profile_through_a_clock_change__has_not_shifted() -> None:
    times = hours()
    assert suspects(times, solar(1, times), Meter("solar", "Europe/Berlin", elevation=elevation)) == []


@pytest.mark.parametrize("seed", range(2))
def test_suspects__midnight_sun__is_found(seed: int) -> None:
    times, values = hours(), solar(seed, hours())
    start = place(np.random.default_rng(seed)) // 24 * 24 + 22
    values[start : start + 3] = 1.5
    meter = Meter("solar", "UTC", elevation=elevation)
    [found] = suspects(times, values, meter)
    assert (found.kind, found.detail["readings"]) == (FindingKind.MIDNIGHT_SUN, 3)
    assert found.first == from_micros(times[start])
    assert of_kind(suspects(times, values, replace(meter, kind="wind")), FindingKind.MIDNIGHT_SUN) == []


@pytest.mark.parametrize("seed", range(2))
def test_suspects__negative_consumption__is_found_unless_the_meter_feeds_in(seed: int) -> None:
    times, values = hours(), household(seed, hours())
    start = place(np.random.default_rng(seed))
    values[start : start + 2] *= -1
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["readings"]) == (FindingKind.NEGATIVE, 2)
    assert suspects(times, values, replace(BERLIN, is_net=True)) == []
    feeding_in = household(seed, times)
    feeding_in[times // HOUR % 24 == 12] *= -1
    assert of_kind(suspects(times, feeding_in, BERLIN), FindingKind.NEGATIVE) == []


@pytest.mark.parametrize("seed", range(2))
def test_suspects__implausible_ramp__is_found(seed: int) -> None:
    times, values = hours(), household(seed, hours())
    start = place(np.random.default_rng(seed))
    values[start : start + 2] = 40
    [found] = suspects(times, values, BERLIN)
    assert (found.kind, found.detail["readings"]) == (FindingKind.RAMP, 2)
    assert (found.first, found.last) == (from_micros(times[start]), from_micros(times[start + 1]))


def test_suspects__asset_that_is_rarely_used__has_no_ramps() -> None:
    times = hours()
    values = np.zeros(len(times))
    values[np.random.default_rng(1).choice(len(times), 12, replace=False)] = 3.0
    assert suspects(times, values, BERLIN) == []


def test_suspects__what_is_no_number__is_left_to_others() -> None:
    times, values = hours(), household(1, hours())
    values[[100, 2000]] = np.inf
    values[2500] = np.nan
    assert suspects(times, values, BERLIN) == []
    temperatures = np.random.default_rng(1).normal(10, 3, len(times)).round(1)
    temperatures[500:530] = np.inf
    assert frozen_weather(times, temperatures) == []


def test_frozen_weather__a_day_of_one_temperature__is_found() -> None:
    times = hours()
    temperatures = np.random.default_rng(1).normal(10, 3, len(times)).round(1)
    assert frozen_weather(times, temperatures) == []
    temperatures[500:525] = 7.5
    [found] = frozen_weather(times, temperatures)
    assert (found.detail["value"], found.detail["readings"]) == (7.5, 25)
    assert found.first == from_micros(times[500])


FAULTS: dict[str, Callable[[Values, int], None]] = {
    "error code": lambda values, at: values.__setitem__(slice(at, at + 2), 65_535),
    "unit jump": lambda values, at: values.__setitem__(slice(at, at + 100), values[at : at + 100] * 1000),
    "copied days": lambda values, at: values.__setitem__(slice(at, at + 30), values[at - 72 : at - 42]),
    "negative": lambda values, at: values.__setitem__(slice(at, at + 2), -values[at : at + 2]),
    "ramp": lambda values, at: values.__setitem__(slice(at, at + 2), 50),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(2))
def test_suspects__part_of_a_series_with_its_context__is_judged_as_the_whole(fault: str, seed: int) -> None:
    times, values = hours(), household(seed, hours())
    at = place(np.random.default_rng(seed))
    FAULTS[fault](values, at)
    reach = int((REACH + CONTEXT).total_seconds() // 3600)
    part = slice(max(0, at - reach), at + 100 + reach)
    assert suspects(times[part], values[part], BERLIN) == suspects(times, values, BERLIN)
