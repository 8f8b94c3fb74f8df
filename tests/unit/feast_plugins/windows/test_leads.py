"""Features of targets in columns equal the oracle; what is not known at an issue changes no bit of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.features import HOUR, Issue
from oracles.features import Asset as Known
from oracles.features import Weather as Row
from oracles.leads import LeadsOracle
from support.declared_views import ENTITIES, same
from support.properties import examples

from feast_plugins.errors import DeclarationError
from feast_plugins.windows import (
    Calendar,
    DegreeHours,
    Difference,
    Holiday,
    Lag,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    Weather,
    WindPower,
    declared_view,
)
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.features import FUNCTIONS, READING
from feast_plugins.windows.leads import evaluate, reaches, wall_clock
from feast_plugins.windows.vintages import EMPTY, Arrivals, Asset, Grid, Issues, Vintages
from feast_plugins.windows.vintages import Series as SeriesVintages
from feast_plugins.windows.vintages import Weather as WeatherVintages

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
PRICE = "price@price_zone"
COLUMNS = ("temperature", "humidity", "solar_irradiance", "wind_speed")
#: Before the nights in which clocks go forth and back in Europe, and at a year's end.
ANCHORS = st.sampled_from(
    [
        datetime(2026, 3, 27, 20, tzinfo=UTC),
        datetime(2026, 10, 23, 20, tzinfo=UTC),
        datetime(2026, 12, 30, 5, tzinfo=UTC),
    ]
)
DELAYS = st.sampled_from([timedelta(0), timedelta(minutes=40), 2 * HOUR, 30 * HOUR])
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"])
VALUES = st.floats(-1e3, 1e3, allow_subnormal=False)
MINUTES = st.integers(-6 * 96, 4 * 96).map(lambda quarter: timedelta(minutes=15 * quarter))
WEATHER = st.lists(
    st.tuples(MINUTES, st.integers(-60, 5), *[st.none() | st.floats(0, 40, allow_subnormal=False)] * 4),
    max_size=40,
)
PRICES = st.lists(st.tuples(MINUTES, st.integers(-60, 5), VALUES), max_size=60)
READINGS = st.dictionaries(
    st.integers(-20 * 96, 4 * 96).map(lambda quarter: timedelta(minutes=15 * quarter)), VALUES, max_size=300
)


def leaves(step: timedelta) -> st.SearchStrategy[Any]:
    functions, columns = st.sampled_from(FUNCTIONS), st.sampled_from(["value", "value", "temperature", PRICE])
    return st.one_of(
        st.builds(Lag, columns, st.sampled_from([1, 2, 24, 30, 100]).map(step.__mul__)),
        st.builds(SameHour, columns, functions, st.integers(1, 5), st.sampled_from([1, 1, 7])),
        st.builds(Weather, st.sampled_from(COLUMNS)),
        st.just(Series("price", by="price_zone")),
        st.builds(
            DegreeHours,
            st.just(15.5),
            st.sampled_from([1, 5]).map(HOUR.__mul__),
            st.sampled_from(["heating", "cooling"]),
        ),
    )


def features_of(step: timedelta) -> st.SearchStrategy[dict[str, Any]]:
    each = leaves(step)
    registered = st.sampled_from(
        [
            *map(Calendar, ("hour_of_day", "day_of_week", "day_of_month", "day_of_year", "month")),
            *map(Calendar, ("is_weekend", "local_time")),
            *(Holiday("DE"), SunPosition("elevation"), SunPosition("azimuth")),
            *(WindPower(), WindPower(120, cut_in=2, rated=12.5, cut_out=20, shear=0.2)),
        ]
    )
    stored = each | st.builds(Difference, each, each) | st.builds(Ratio, each, each)
    return st.tuples(st.lists(stored, min_size=1, max_size=6), st.lists(registered, max_size=3)).map(
        lambda parts: {f"f{at}": feature for at, feature in enumerate([*parts[0], *parts[1]])}
    )


DECLARATIONS = st.sampled_from([HOUR / 4, HOUR]).flatmap(
    lambda step: st.builds(
        lambda features, leads: Declaration("drawn", features, step, leads * step),
        features_of(step),
        st.sampled_from([1, 7, 48]),
    )
)


@dataclass
class World:
    """Two assets with their own readings, weather and prices, and issues of both."""

    declaration: Declaration
    assets: list[Known]
    after: list[timedelta]
    issues: list[tuple[int, datetime]]
    place: tuple[float, float] | None

    def oracle(self, asset: int) -> LeadsOracle:
        return LeadsOracle(
            self.assets[asset], self.declaration.step, self.after[asset], *(self.place or (None, None))
        )

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """What the columns say."""
        step_us = self.declaration.step // US
        register = [
            Asset(asset.zone, *(self.place or (np.nan, np.nan)), after // US)
            for asset, after in zip(self.assets, self.after, strict=True)
        ]
        issues = Issues(
            register,
            np.array([asset for asset, _ in self.issues]),
            np.array([(issue - EPOCH) // self.declaration.step for _, issue in self.issues]),
            step_us,
        )
        needs = reaches(self.declaration.features.values(), self.declaration.leads, int(issues.delays.max()))
        numbers = np.arange(len(self.assets))
        columns = {}
        for name, (first, end) in needs.items():
            lowest, highest = int(issues.steps.min()) + first, int(issues.steps.max()) + end
            if name == READING:
                values = np.full((len(self.assets), highest - lowest), np.nan)
                for number, asset in enumerate(self.assets):
                    for at in range(highest - lowest):
                        begin = EPOCH + (lowest + at) * self.declaration.step
                        value = asset.mean(begin, begin + self.declaration.step)
                        values[number, at] = np.nan if value is None else value
                columns[name] = Grid(lowest, values).known(issues, first, end)
            elif name in COLUMNS:
                vintages = {column: self._weather(column) for column in COLUMNS}
                weather = WeatherVintages(vintages, numbers, lowest, highest)
                columns[name] = weather.known(issues, [name], first, end)[name]
            else:
                columns[name] = SeriesVintages(self._prices(), numbers, lowest, highest).known(
                    issues, first, end
                )
        return evaluate(
            self.declaration.features, columns, issues, self.declaration.step, self.declaration.leads
        )

    def _weather(self, column: str) -> Vintages:
        return vintages(
            [
                (number, row.valid_at, row.available_at, getattr(row, column))
                for number, asset in enumerate(self.assets)
                for row in asset.weather
            ]
        )

    def _prices(self) -> Vintages:
        return vintages(
            [
                (number, issue.valid_at, issue.available_at, issue.value)
                for number, asset in enumerate(self.assets)
                for issue in asset.series[PRICE]
            ]
        )


def vintages(rows: Sequence[tuple[int, datetime, datetime, float | None]]) -> Vintages:
    return Vintages.of(
        np.array([number for number, *_ in rows], np.int64),
        np.array([(valid - EPOCH) // US for _, valid, *_ in rows], np.int64),
        np.array([(available - EPOCH) // US for _, _, available, _ in rows], np.int64),
        {"values": np.array([np.nan if value is None else value for *_, value in rows], np.float64)},
    )["values"]


def known(anchor: datetime, zone: str, readings: Any, weather: Any, prices: Any) -> Known:
    """An asset; of rows with the same key the last one counts."""
    rows = {
        (anchor + age, anchor + age + lead * HOUR): Row(anchor + age, anchor + age + lead * HOUR, *values)
        for age, lead, *values in weather
    }
    issued = {
        (anchor + age, anchor + age + lead * HOUR): Issue(anchor + age, anchor + age + lead * HOUR, value)
        for age, lead, value in prices
    }
    return Known(
        zone,
        {anchor + age: value for age, value in readings.items()},
        list(rows.values()),
        {PRICE: list(issued.values())},
    )


WORLDS = st.builds(
    lambda declaration, anchor, zones, after, readings, weather, prices, issues, place: World(
        declaration,
        [known(anchor, zone, *parts) for zone, *parts in zip(zones, readings, weather, prices, strict=True)],
        list(after),
        [
            (asset, anchor + ago * HOUR - (anchor + ago * HOUR - EPOCH) % declaration.step)
            for asset, ago in issues
        ],
        place,
    ),
    DECLARATIONS,
    ANCHORS,
    *(st.tuples(each, each) for each in (ZONES, DELAYS, READINGS, WEATHER, PRICES)),
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(-90, 30).map(lambda half: half / 2)), min_size=1, max_size=4
    ),
    st.none() | st.just((52.5, 13.4)),
)


@settings(max_examples=examples(30))
@given(world=WORLDS)
def test_arrays__of_drawn_declarations_and_data__equal_the_oracle(world: World) -> None:
    leads, features = world.declaration.leads, world.declaration.as_json()
    arrays = world.arrays()
    assert set(arrays) == set(features)
    for name, of in features.items():
        assert arrays[name].shape == (len(world.issues), leads)
        for (asset, issue), row in zip(world.issues, arrays[name].tolist(), strict=True):
            want = world.oracle(asset).array(issue, of, leads)
            for lead, (got, expected) in enumerate(zip(row, want, strict=True)):
                value = None if np.isnan(got) else got
                assert same(value, expected, 1e6), (name, of, issue, lead, value, expected)


@settings(max_examples=examples(30))
@given(world=WORLDS, changed=READINGS, weather=WEATHER, prices=PRICES)
def test_arrays__whatever_was_not_known_at_issue__keep_each_bit(
    world: World, changed: dict[timedelta, float], weather: Any, prices: Any
) -> None:
    world.issues = world.issues[:1]
    ((asset, issue),) = world.issues
    before = world.arrays()
    step, mine = world.declaration.step, world.assets[asset]
    known_before = mine.readings
    until = issue - world.after[asset]
    ends = {time: time - (time - EPOCH) % step + step for time in known_before}
    mine.readings = {time: value for time, value in known_before.items() if ends[time] <= until}
    added = {issue + age: value for age, value in changed.items()}
    mine.readings |= {
        time: value for time, value in added.items() if time - (time - EPOCH) % step + step > until
    }
    others = known(issue, mine.zone, changed, weather, prices)
    mine.weather = [row for row in mine.weather if row.available_at <= issue]
    mine.weather += [row for row in others.weather if row.available_at > issue]
    mine.series[PRICE] = [each for each in mine.series[PRICE] if each.available_at <= issue]
    mine.series[PRICE] += [each for each in others.series[PRICE] if each.available_at > issue]
    world.assets[1 - asset] = others
    after = world.arrays()
    for name, values in before.items():
        assert values.tobytes() == after[name].tobytes(), name


@pytest.mark.parametrize(
    ("night", "hours"),
    [(datetime(2026, 3, 28, 23, tzinfo=UTC), 23), (datetime(2026, 10, 24, 22, tzinfo=UTC), 25)],
)
def test_wall_clock__on_days_of_23_and_25_hours__has_the_hours_of_the_day(
    night: datetime, hours: int
) -> None:
    seconds = np.arange(hours) * 3600 + int(night.timestamp())
    local = wall_clock(seconds, "Europe/Berlin")
    assert len(set((local // 86400).tolist())) == 1
    assert local[0] % 86400 == 0
    assert local[-1] % 86400 == 23 * 3600


def test_delays__of_steps_that_say_when_they_arrived__are_those_of_the_newest_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(5)
    known = 100 + np.arange(60) + random.integers(1, 20, (3, 60))
    known[random.random(known.shape) < 0.1] = EMPTY
    arrivals = Arrivals(np.array([2, -1, 0, 1, 0]), 100, known)
    assets, steps = random.integers(0, 5, 400), random.integers(95, 190, 400)
    sorts: list[int] = []
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda *of, **more: sorts.append(1) or argsort(*of, **more))
    issues = Issues([Asset(available_after=2)] * 5, assets, steps, 1, arrivals)
    parts = [issues.part(slice(first, first + 40)).delays for first in range(0, 400, 40)]
    for asset, step, delay in zip(assets, steps, np.concatenate(parts), strict=True):
        row = known[arrivals.rows[asset]]
        newest = max((100 + at for at in range(60) if row[at] <= step), default=99)
        assert delay == (2 if asset == 1 else step - 1 - newest)
    # once a row, and once a part
    assert len(sorts) == 3 + len(parts)


def test_wall_clock__of_a_zone_that_python_does_not_know__says_so() -> None:
    with pytest.raises(DeclarationError, match="no time zone 'Mars/Olympus'"):
        wall_clock(np.array([0]), "Mars/Olympus")


def test_holiday__without_a_country__is_of_the_country_of_the_time_zone() -> None:
    begin = datetime(2026, 12, 23, tzinfo=UTC)
    features = {"own": Holiday(), "german": Holiday("DE"), "lag": Lag("value", 96 * HOUR)}
    declaration = Declaration("ahead", features, HOUR, 96 * HOUR)
    zones = ("Europe/Berlin", "UTC", "America/Chicago")
    world = World(
        declaration,
        [known(begin, zone, {}, [], []) for zone in zones],
        [timedelta(0)] * 3,
        [(at, begin) for at in range(3)],
        None,
    )
    arrays = world.arrays()
    german, own = arrays["german"], arrays["own"]
    assert own[0].tolist() == german[0].tolist()
    # 25 and 26 December
    assert german[0].sum() == 48
    assert np.isnan(own[1]).all()
    # the 25th alone, from 06:00 UTC
    assert own[2].tolist() == [float(54 <= hour < 78) for hour in range(96)]


LAGS = {"lag": Lag("value", 48 * HOUR)}


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (LAGS, {"horizon": 90 * timedelta(minutes=1)}, "a horizon is a whole number of steps of 1h"),
        (LAGS, {"horizon": timedelta(0)}, "a horizon is a whole number of steps"),
        (LAGS, {"horizon": 361 * HOUR}, "360 hours at most"),
        (LAGS, {"horizon": 48 * HOUR, "step": DAY}, "a view of days has no horizon"),
        (
            {"mean": Lag("value", DAY), "value_of_step": Lag("value", HOUR)},
            {"horizon": DAY},
            "name the feature differently",
        ),
    ],
)
def test_declared_view__with_a_horizon_that_cannot_be__is_refused(
    features: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        declared_view(name="ahead", entities=ENTITIES, features=features, **options)
