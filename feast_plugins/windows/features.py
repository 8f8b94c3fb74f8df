"""Kinds of features: what each is of, how it is checked, and its JSON form.

Feast's own `Aggregation` is a window; the types here are what Feast has no word for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from feast.aggregation import Aggregation
from feast.types import Float64, Int64, PrimitiveFeastType, String
from typing_extensions import override

from feast_plugins.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
#: Times between two rows of a view, and how its tag says them.
STEPS: Final[Mapping[timedelta, str]] = {HOUR / 4: "15min", HOUR / 2: "30min", HOUR: "1h", DAY: "1d"}
#: The one column of the readings: an hour's value, see docs/features.md.
READING: Final = "value"
WEATHER: Final = (
    *("temperature", "humidity", "wind_speed", "wind_direction"),
    *("solar_irradiance", "cloud_cover", "precipitation", "pressure"),
)
FUNCTIONS: Final = ("mean", "std", "min", "max", "sum", "count", "first", "last")
CALENDAR: Final = (
    *("hour_of_day", "day_of_week", "day_of_month", "day_of_year", "month", "is_weekend"),
    "local_time",
)
SUN: Final = ("elevation", "azimuth")
#: The total of the asset's group, see docs/declared-features.md.
TOTAL: Final = "value@group"
#: What a column `series@key` may name after the `@`: whose values of the series an asset uses.
SERIES_KEYS: Final = ("tenant", "asset", "price_zone", "group", "weather_station")
ATTRIBUTES: Final[Mapping[str, PrimitiveFeastType]] = {
    "capacity": Float64,
    "latitude": Float64,
    "longitude": Float64,
    "kind": String,
    "unit": String,
    "timezone": String,
    "price_zone": String,
    "group": String,
    "weather_station": String,
}
#: A weather value counts for so many hours, see docs/features.md.
WEATHER_AGE: Final = 6
#: Weather is kept for a year; of the first hours what they look back to may be gone.
WEATHER_KEPT: Final = 365 * 24 - WEATHER_AGE - 1
#: As far back as a feature may look: two years.
FARTHEST: Final = 17_544
#: PostgreSQL's names have 63 bytes, and tables of a view have suffixes.
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def _check_duration(duration: timedelta, step: timedelta, what: str) -> None:
    """Raise `DeclarationError` for a duration that is no multiple of the step of rows, or out of range."""
    if not isinstance(duration, timedelta):
        raise DeclarationError(f"{what} is a timedelta, not {duration!r}.")
    if duration % step or not step <= duration <= FARTHEST * HOUR:
        raise DeclarationError(
            f"{what} of {duration} is no whole number of steps: rows come every {STEPS[step]}, and look back "
            f"{FARTHEST} hours at most."
        )


def merged(ranges: Iterable[tuple[int, int]], gap: int = 0) -> list[tuple[int, int]]:
    """Ranges in order; those with a gap of at most so many steps as one."""
    merged: list[tuple[int, int]] = []
    for nearest, farthest in sorted(ranges):
        if merged and nearest <= merged[-1][1] + 1 + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], farthest))
        else:
            merged.append((nearest, farthest))
    return merged


def source_of(column: str) -> str:
    """Where a column's values come from: `readings`, `weather`, or a column `name@key` itself."""
    if column == READING:
        return "readings"
    return "weather" if column in WEATHER else column


def series_of(column: str) -> tuple[str, str]:
    """Name and key of an external series from its column.

    Raises:
        DeclarationError: the column is none of a series.
    """
    name, _, key = column.partition("@")
    if not NAME.fullmatch(name) or name == READING:
        raise DeclarationError(
            f"{name!r} is no name of a series: a small letter, then at most 47 small letters, digits and _, "
            f"and not {READING}."
        )
    _one_of(key, SERIES_KEYS, "key of a series")
    return name, key


def _check_column(column: object) -> None:
    if column in {READING, TOTAL, *WEATHER}:
        return
    if not isinstance(column, str) or "@" not in column:
        raise DeclarationError(
            f"There is no column {column!r}; there are {', '.join((READING, *WEATHER, TOTAL))}, and "
            "external series as name@key, such as day_ahead_price@price_zone."
        )
    series_of(column)


def _one_of(value: object, known: tuple[str, ...] | Mapping[str, Any], what: str) -> None:
    if value not in known:
        raise DeclarationError(f"There is no {what} {value!r}; there are {', '.join(known)}.")


@dataclass(frozen=True)
class Expression:
    """What a feature is; the row's time is the start of its step."""

    #: of the JSON form
    kind: ClassVar[str]
    #: whether refreshes compute and store it; others are computed when rows are read
    is_stored: ClassVar[bool] = True
    #: whether in a view with a horizon it is of each step ahead, not of the row's own time
    is_of_target: ClassVar[bool] = False

    #: time between two rows; zero until the view gives it, unless an `Aggregation` has said it
    slide_interval: timedelta = field(default=timedelta(0), kw_only=True, compare=False)

    def sliding(self, step: timedelta) -> Self:
        """The same with another time between two rows."""
        return replace(self, slide_interval=step)

    @property
    def dtype(self) -> PrimitiveFeastType:
        """Feast's type of the feature."""
        return Float64

    def check(self) -> None:
        """Raise `DeclarationError` where it cannot be computed."""

    def reaches(self, source: str) -> list[tuple[int, int]]:
        """Steps before a row that it uses of a source (see `source_of`), as ranges with both ends."""
        del source
        return []

    def leaves(self) -> Iterator[OfColumn]:
        """The expressions it is made of that read a column."""
        yield from ()

    def __str__(self) -> str:
        """As it is declared, with durations in hours."""
        values = [each for name, each in self.as_json().items() if name != "kind"]
        words = (
            str(expression_of(each)) if isinstance(each, Mapping) else json.dumps(each) for each in values
        )
        return f"{type(self).__name__}({', '.join(words)})"

    def as_json(self) -> dict[str, Any]:
        """JSON form, which `expression_of` reads."""
        found: dict[str, Any] = {"kind": self.kind}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Expression):
                value = value.as_json()
            elif isinstance(value, timedelta):
                value = value / HOUR if value % HOUR else value // HOUR
            if value is not None and each.name != "slide_interval":
                found[each.name] = value
        return found


class OfColumn(Expression):
    """Reads one column in the steps that `offsets` gives."""

    column: str

    def offsets(self) -> tuple[int, int]:
        """Nearest and farthest step before the row."""
        raise NotImplementedError

    @override
    def check(self) -> None:
        _check_column(self.column)
        if self.column in {READING, TOTAL} and self.offsets()[0] < 1:
            raise DeclarationError("A row uses only readings before its time.")
        if self.column in {TOTAL, *WEATHER} and self.slide_interval > HOUR:
            raise DeclarationError(
                f"There is no {self.column} of days: declare features of it in a view with a step of an hour "
                "or less."
            )
        if (hours := self.lookback_hours) > FARTHEST:
            raise DeclarationError(f"A feature looks back {FARTHEST} hours at most, not {hours}.")
        if self.column in WEATHER and hours > WEATHER_KEPT:
            raise DeclarationError(
                f"Weather is kept for a year, so a feature of it looks back {WEATHER_KEPT} hours at most, "
                f"not {hours}."
            )

    @override
    def leaves(self) -> Iterator[OfColumn]:
        yield self

    @property
    def lookback_hours(self) -> int:
        """Whole hours before the row, as many as it takes."""
        return -(-self.offsets()[1] * self.slide_interval // HOUR)

    @override
    def reaches(self, source: str) -> list[tuple[int, int]]:
        nearest, farthest = self.offsets()
        if source_of(self.column) != source:
            return []
        if source == "weather":
            farthest -= -WEATHER_AGE * HOUR // self.slide_interval
        return [(nearest, farthest)]


@dataclass(frozen=True)
class Window(OfColumn):
    """`function` over the steps in [t - time_window, t): Feast's `Aggregation`, as it is kept."""

    kind: ClassVar[str] = "window"
    column: str
    function: str
    time_window: timedelta

    @property
    @override
    def dtype(self) -> PrimitiveFeastType:
        return Int64 if self.function == "count" else Float64

    @override
    def offsets(self) -> tuple[int, int]:
        return 1, self.time_window // self.slide_interval

    @override
    def check(self) -> None:
        _check_duration(self.time_window, self.slide_interval, "A time_window")
        _one_of(self.function, FUNCTIONS, "function")
        super().check()


@dataclass(frozen=True)
class Quantile(OfColumn):
    """Quantile (0.5: the median) of the values of the steps in [t - time_window, t).

    It is exact: between two values it is interpolated. Steps without a value do not count.
    """

    kind: ClassVar[str] = "quantile"
    column: str
    quantile: float
    time_window: timedelta

    @override
    def offsets(self) -> tuple[int, int]:
        return 1, self.time_window // self.slide_interval

    @override
    def check(self) -> None:
        _check_duration(self.time_window, self.slide_interval, "A time_window")
        is_number = isinstance(self.quantile, int | float) and not isinstance(self.quantile, bool)
        if not is_number or not 0 <= self.quantile <= 1:
            raise DeclarationError(f"A quantile is a number from 0 to 1, not {self.quantile!r}.")
        super().check()


@dataclass(frozen=True)
class Lag(OfColumn):
    """Value of the one step that began `lag` before the row."""

    kind: ClassVar[str] = "lag"
    is_of_target: ClassVar[bool] = True
    column: str
    lag: timedelta

    @override
    def offsets(self) -> tuple[int, int]:
        return self.lag // self.slide_interval, self.lag // self.slide_interval

    @override
    def check(self) -> None:
        _check_duration(self.lag, self.slide_interval, "A lag")
        super().check()


@dataclass(frozen=True)
class Weather(OfColumn):
    """Weather at the row's time: a forecast issued in time, else what was observed in six hours before."""

    kind: ClassVar[str] = "weather"
    is_of_target: ClassVar[bool] = True
    column: str

    @override
    def offsets(self) -> tuple[int, int]:
        return 0, 0

    @override
    def check(self) -> None:
        _one_of(self.column, WEATHER, "column of the weather")
        super().check()


@dataclass(frozen=True)
class Series(OfColumn):
    """Value of an external series in the row's hour, as it was available when the hour began.

    `by` says whose values an asset uses: those of its own `price_zone`, `group` or `weather_station` in the
    register, of its own id (`asset`), or the same for all assets (`tenant`). Lags and windows name the series
    as the column `name@by`.
    """

    kind: ClassVar[str] = "series"
    is_of_target: ClassVar[bool] = True
    name: str
    by: str = "tenant"

    @property
    def column(self) -> str:  # type: ignore[override]  # that of the others is a field
        """The series as other types name it."""
        return f"{self.name}@{self.by}"

    @override
    def offsets(self) -> tuple[int, int]:
        return 0, 0

    @override
    def check(self) -> None:
        series_of(self.column)


@dataclass(frozen=True)
class SameHour(OfColumn):
    """`function` over the steps that began 24, 48, … hours before; `every` 7 takes weeks instead of days."""

    kind: ClassVar[str] = "same_hour"
    is_of_target: ClassVar[bool] = True
    column: str
    function: str
    days: int
    every: int = 1

    @property
    def step(self) -> int:
        """Steps from one to the next."""
        return self.every * DAY // self.slide_interval

    @property
    @override
    def dtype(self) -> PrimitiveFeastType:
        return Int64 if self.function == "count" else Float64

    @override
    def offsets(self) -> tuple[int, int]:
        return self.step, self.step * self.days

    @override
    def check(self) -> None:
        _one_of(self.function, FUNCTIONS, "function")
        for name in ("days", "every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DeclarationError(f"{name} of SameHour is a whole number from 1, not {value!r}.")
        super().check()


@dataclass(frozen=True)
class DegreeHours(OfColumn):
    """Sum of degrees below `base` (heating) or above it (cooling) over the hours in [t - time_window, t).

    Empty unless the temperature of every step is known.
    """

    kind: ClassVar[str] = "degree_hours"
    is_of_target: ClassVar[bool] = True
    base: float
    time_window: timedelta
    direction: str = "heating"
    column: str = "temperature"

    @override
    def offsets(self) -> tuple[int, int]:
        return 1, self.time_window // self.slide_interval

    @override
    def check(self) -> None:
        super().check()
        _check_duration(self.time_window, self.slide_interval, "A time_window")
        _one_of(self.direction, ("heating", "cooling"), "direction")
        _one_of(self.column, ("temperature",), "column of degrees")
        if not isinstance(self.base, int | float) or not -100 <= self.base <= 100:  # noqa: PLR2004  # °C
            raise DeclarationError(f"base of DegreeHours is a temperature in °C, not {self.base!r}.")


@dataclass(frozen=True)
class Pair(Expression):
    """A feature of two others."""

    left: Expression | Aggregation
    right: Expression | Aggregation

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", expression(self.left))
        object.__setattr__(self, "right", expression(self.right))

    @override
    def sliding(self, step: timedelta) -> Self:
        left, right = (each.sliding(step) for each in self._both())
        return replace(self, left=left, right=right, slide_interval=step)

    def _both(self) -> tuple[Expression, Expression]:
        assert isinstance(self.left, Expression)  # noqa: S101  # see __post_init__
        assert isinstance(self.right, Expression)  # noqa: S101  # see __post_init__
        return self.left, self.right

    @override
    def check(self) -> None:
        for each in self._both():
            each.check()
            if not each.is_stored or isinstance(each, Pair):
                raise DeclarationError(
                    f"{type(self).__name__} is of two lags, windows or weather values, "
                    f"not of {type(each).__name__}."
                )

    @override
    def reaches(self, source: str) -> list[tuple[int, int]]:
        return [reach for each in self._both() for reach in each.reaches(source)]

    @override
    def leaves(self) -> Iterator[OfColumn]:
        for each in self._both():
            yield from each.leaves()


@dataclass(frozen=True)
class Difference(Pair):
    """`left` minus `right`; empty where one is."""

    kind: ClassVar[str] = "difference"


@dataclass(frozen=True)
class Ratio(Pair):
    """`left` over `right`; empty where one is, or where `right` is 0."""

    kind: ClassVar[str] = "ratio"


@dataclass(frozen=True)
class Calendar(Expression):
    """Part of the row's time in the asset's own zone; Monday is 0.

    `local_time` is all of it, in seconds since 1970-01-01 00:00 on the asset's wall clock.
    """

    kind: ClassVar[str] = "calendar"
    is_stored: ClassVar[bool] = False
    is_of_target: ClassVar[bool] = True
    part: str

    @property
    @override
    def dtype(self) -> PrimitiveFeastType:
        return Int64

    @override
    def check(self) -> None:
        _one_of(self.part, CALENDAR, "part of the calendar")


@dataclass(frozen=True)
class Holiday(Expression):
    """1 on public holidays of a country (ISO 3166) or of a part of it, in the asset's own zone, else 0.

    Without a country, in views with a horizon: of that of the asset's time zone; empty where it has none.
    Days are what the library `holidays` knows when `feast apply` runs, from 2000 to 2049; empty outside.
    """

    kind: ClassVar[str] = "holiday"
    is_stored: ClassVar[bool] = False
    is_of_target: ClassVar[bool] = True
    country: str | None = None
    subdivision: str | None = None

    @property
    @override
    def dtype(self) -> PrimitiveFeastType:
        return Int64

    @override
    def check(self) -> None:
        from feast_plugins.windows.holiday_days import days  # noqa: PLC0415  # an extra

        if self.country is not None:
            days(self.country, self.subdivision)
        elif self.subdivision is not None:
            raise DeclarationError("A Holiday with a subdivision has a country.")


@dataclass(frozen=True)
class SunPosition(Expression):
    """`elevation` of the sun or its `azimuth` from north by east at the row's time, in degrees.

    By latitude and longitude of the asset in the register, without refraction; empty where it has none.
    """

    kind: ClassVar[str] = "sun"
    is_stored: ClassVar[bool] = False
    is_of_target: ClassVar[bool] = True
    part: str

    @override
    def check(self) -> None:
        _one_of(self.part, SUN, "part of the sun's position")


@dataclass(frozen=True)
class WindPower(OfColumn):
    """Part of their rated power, from 0 to 1, that wind turbines give at the wind speed of a step.

    Wind blows harder at the hub than where it is measured, by a power law; power rises with the cube of the
    speed from `cut_in` to `rated` (m/s), and is 0 from `cut_out` on. Heights are in m. The turbine is by
    default the 5 MW reference turbine of NREL (Jonkman et al. 2009, NREL/TP-500-38060), the exponent of
    height the usual one seventh. Only in views with a horizon.
    """

    kind: ClassVar[str] = "wind_power"
    is_stored: ClassVar[bool] = False
    is_of_target: ClassVar[bool] = True
    hub_height: float = 90
    cut_in: float = 3
    rated: float = 11.4
    cut_out: float = 25
    measured_at: float = 10
    shear: float = 0.143
    column: str = "wind_speed"

    @override
    def offsets(self) -> tuple[int, int]:
        return 0, 0

    @override
    def check(self) -> None:
        super().check()
        _one_of(self.column, ("wind_speed",), "column of the wind's speed")
        numbers = (self.hub_height, self.cut_in, self.rated, self.cut_out, self.measured_at, self.shear)
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers) or not (
            0 <= self.cut_in < self.rated < self.cut_out <= 120  # noqa: PLR2004  # m/s
            and 0 < self.measured_at <= 1000  # noqa: PLR2004  # m
            and 0 < self.hub_height <= 1000  # noqa: PLR2004  # m
            and 0 <= self.shear <= 1
        ):
            raise DeclarationError(
                "WindPower has speeds 0 <= cut_in < rated < cut_out <= 120 in m/s, heights (hub_height, "
                "measured_at) to 1000 m and a shear from 0 to 1."
            )


@dataclass(frozen=True)
class AssetAttribute(Expression):
    """A column of the asset's entry in the register, as it is now."""

    kind: ClassVar[str] = "asset"
    is_stored: ClassVar[bool] = False
    column: str

    @property
    @override
    def dtype(self) -> PrimitiveFeastType:
        return ATTRIBUTES[self.column]

    @override
    def check(self) -> None:
        _one_of(self.column, ATTRIBUTES, "attribute of an asset")


_KINDS: Final[Mapping[str, type[Expression]]] = {
    each.kind: each
    for each in (
        *(Window, Quantile, Lag, Weather, Series, SameHour, DegreeHours),
        *(Difference, Ratio, Calendar, Holiday, SunPosition, WindPower, AssetAttribute),
    )
}
_DURATIONS: Final = frozenset({"time_window", "lag"})


def expression(of: Expression | Aggregation) -> Expression:
    """`of` as one of the types here.

    Raises:
        DeclarationError: an aggregation has no window, or `of` is something else.
    """
    if isinstance(of, Expression):
        return of
    if not isinstance(of, Aggregation):
        raise DeclarationError(f"A feature is an Aggregation or a type of feast_plugins.windows, not {of!r}.")
    if of.time_window is None:
        raise DeclarationError("An Aggregation needs a time_window.")
    # Feast's constructor has it slide by its window where nothing is said
    said = None if of.slide_interval == of.time_window else of.slide_interval
    return Window(of.column, of.function, of.time_window, slide_interval=said or timedelta(0))


def expression_of(found: Mapping[str, Any]) -> Expression:
    """The expression of a JSON form.

    Raises:
        DeclarationError: it is none, or one of a later version.
    """
    values = dict(found)
    kind = _KINDS.get(values.pop("kind", ""))
    if kind is None:
        raise DeclarationError(f"No expression that this version knows: {json.dumps(found)}.")
    for name, value in values.items():
        if isinstance(value, Mapping):
            values[name] = expression_of(value)
        elif name in _DURATIONS:
            values[name] = timedelta(hours=value)
    try:
        return kind(**values)
    except TypeError as error:
        raise DeclarationError(f"No expression that this version knows: {json.dumps(found)}.") from error


def is_of_target(of: Expression) -> bool:
    """Whether a feature of a view with a horizon is of each step ahead."""
    return of.is_of_target or any(leaf.is_of_target for leaf in of.leaves())
