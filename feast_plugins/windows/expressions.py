"""SQL of one expression: over the steps that a row looks back to, or of the register of assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from feast.types import Float64, Int64, PrimitiveFeastType, String

from feast_plugins.windows import templates
from feast_plugins.windows.features import (
    HOUR,
    READING,
    TOTAL,
    WEATHER,
    AssetAttribute,
    Calendar,
    DegreeHours,
    Expression,
    Holiday,
    Lag,
    OfColumn,
    Quantile,
    SameHour,
    Series,
    SunPosition,
    Window,
)
from feast_plugins.windows.holiday_days import YEARS, days
from feast_plugins.windows.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPES: Final[Mapping[PrimitiveFeastType, str]] = {
    Float64: "double precision",
    Int64: "bigint",
    String: "text",
}


def sql_type(of: Expression) -> str:
    """PostgreSQL's type of a stored feature."""
    return _TYPES[of.dtype]


def weather_window(of: Expression) -> int | None:
    """Farthest hour of weather that an expression merges with others; None: it merges none."""
    merges = [
        leaf.offsets()[1]
        for leaf in of.leaves()
        if isinstance(leaf, Window | Quantile | SameHour | DegreeHours) and leaf.column in WEATHER
    ]
    return max(merges, default=None)


def remembered_steps(of: Expression) -> int | None:
    """How far a feature of the weather alone looks back, whose stored values stay where that weather is gone.

    None: it is of something else, too.
    """
    leaves = list(of.leaves())
    if not all(leaf.column in WEATHER for leaf in leaves):
        return None
    return max(leaf.offsets()[1] for leaf in leaves)


def remembered(name: str, of: Expression, steps: Steps) -> str:
    """What of a known row stays where the weather it was made of is gone: features of the weather alone."""
    farthest = remembered_steps(of)
    if farthest is None:
        return f'computed."{name}"'
    return (
        f"""CASE WHEN computed.hour < weather_kept_since() + {steps.many(farthest)} """
        f"""AND known.generation >= ($4 ->> '{name}')::integer """
        f'THEN coalesce(computed."{name}", known."{name}") ELSE computed."{name}" END AS "{name}"'
    )


def aggregate(of: OfColumn) -> str:
    """An aggregate over the steps that a row looks back to, numbered `ago` from the row on."""
    nearest, farthest = of.offsets()
    if isinstance(of, Lag | Series):
        return f"min(value) FILTER (WHERE ago = {farthest})"
    when = templates.WINDOW.format(nearest=nearest, farthest=farthest)
    if isinstance(of, SameHour):
        when += f" AND mod(ago, {of.step}) = 0"
    return _function(of, templates.FUNCTIONS, when=when)


def window(of: OfColumn, shift: int) -> str:
    """The same as `aggregate` over the rows of a grid, whose times are those of rows `shift` steps later."""
    nearest, farthest = of.offsets()
    if isinstance(of, Lag):
        return f"lag(value, {farthest - shift}) OVER (ORDER BY hour)"
    frame = templates.FRAME.format(nearest=nearest - shift, farthest=farthest - shift)
    if isinstance(of, SameHour):
        number = Steps(of.slide_interval).number("hour")
        frame = templates.FRAME_OF_SAME_HOUR.format(number=number, step=of.step, days=of.days)
    return _function(of, templates.GRID_FUNCTIONS, frame=frame)


def _function(of: OfColumn, functions: Mapping[str, str], **rows: str) -> str:
    """An expression by its template among `functions`, over some rows."""
    if isinstance(of, DegreeHours):
        degrees = f"{of.base!r} - value" if of.direction == "heating" else f"value - {of.base!r}"
        steps = of.offsets()[1]
        return functions[of.kind].format(**rows, steps=steps, degrees=degrees, in_hours=_in_hours(of))
    if isinstance(of, Quantile):
        return functions[of.kind].format(**rows, quantile=repr(of.quantile))
    assert isinstance(of, Window | SameHour)  # noqa: S101  # there are no others
    return functions[of.function].format(**rows, in_hours=_in_hours(of))


def _in_hours(of: OfColumn) -> str:
    """Sums of rates are over hours, whatever the step."""
    if of.slide_interval == HOUR:
        return ""
    hours = repr(of.slide_interval / HOUR)
    if of.column in WEATHER:
        return f" * {hours}"
    # members of a group have the same unit as the asset
    return (
        f" * CASE WHEN k.is_amount IS NULL THEN 1 ELSE {hours} END" if of.column in {READING, TOTAL} else ""
    )


def of_register(of: Expression) -> str:
    """What is not stored: of the row's own time and of its asset."""
    if isinstance(of, Calendar):
        return templates.CALENDAR[of.part]
    if isinstance(of, SunPosition):
        return f"sun_position('{of.part}', rows.hour, assets.latitude, assets.longitude)"
    if isinstance(of, AssetAttribute):
        return f'assets."{of.column}"'
    assert isinstance(of, Holiday)  # noqa: S101  # there are no others
    assert of.country is not None  # noqa: S101  # only in views with a horizon
    dates = ",".join(f"{day:%Y-%m-%d}" for day in days(of.country, of.subdivision))
    return (
        f"CASE WHEN extract(year FROM local.time) BETWEEN {YEARS[0]} AND {YEARS[-1]} "
        f"THEN (local.time::date = ANY ('{{{dates}}}'::date[]))::integer::bigint END"
    )
