"""Validation of readings and weather: schemas by kind of asset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from ai_hub.ingest.options import Reading
from ai_hub.ingest.policies import AHEAD, BOUNDS, Bounds
from ai_hub.ingest.units import rule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ai_hub.ingest.assets import Asset
    from ai_hub.ingest.datasets import Dataset

QUALITIES = ("good", "estimated", "suspect")
OLDEST = pd.Timestamp("1970-01-01", tz="UTC")
#: Longest horizon of a forecast.
HORIZON = pd.Timedelta(days=366)
TOO_EARLY = (
    "available_at is before the end of the reading's interval, when nobody knew it:"
    " give the time at which the value arrived, or leave it empty (check --timezone, --stamps and --interval)"
)
TOO_MANY_DIGITS = "value has more digits than the register (see --digits)"


@dataclass(frozen=True)
class WeatherRange:
    """Physical bounds of one weather variable."""

    low: float
    high: float
    unit: str


# a little wider than the records on Earth, within the table's own CHECKs
WEATHER: Mapping[str, WeatherRange] = {
    "temperature": WeatherRange(-95, 65, "°C"),
    "humidity": WeatherRange(0, 100, "%"),
    "wind_speed": WeatherRange(0, 120, "m/s"),
    "wind_direction": WeatherRange(0, 360, "°"),
    "solar_irradiance": WeatherRange(0, 1800, "W/m²"),
    "cloud_cover": WeatherRange(0, 100, "%"),
    "precipitation": WeatherRange(0, 500, "mm"),
    "pressure": WeatherRange(300, 1100, "hPa"),
}


def _instant(
    name: str,
    latest: pd.Timestamp,
    too_late: str,
    *,
    oldest: pd.Timestamp = OLDEST,
    too_early: str = "before 1970",
    nullable: bool = False,
) -> pa.Column:
    return pa.Column(
        "datetime64[us, UTC]",
        [
            pa.Check.ge(oldest, error=f"{name} is {too_early}"),
            pa.Check.le(latest, error=f"{name} is {too_late}"),
        ],
        nullable=nullable,
    )


def readings_schema(
    kind: str,
    now: pd.Timestamp,
    *,
    rated: bool = False,
    is_register: bool = False,
    bounds: Bounds = BOUNDS,
    has_availability: bool = False,
) -> pa.DataFrameSchema:
    """Schema of typed readings of one kind; `rated`: with the asset's `capacity`, NaN where unknown.

    With `has_availability` they have `available_at` (NaT: not said) and `interval_seconds`.

    The database compares what a register counts between two readings with the capacity.
    """
    rule = rule_of(kind)
    checks = [pa.Check(np.isfinite, ignore_na=False, error="value is missing or not a finite number")]
    if is_register:
        checks.append(pa.Check.ge(0, error="value is below 0, impossible for a register"))
    elif rule.minimum is not None:
        checks.append(
            pa.Check.ge(rule.minimum, error=f"value is below {rule.minimum:g}, impossible for {kind}")
        )
    of_rows = [_within_capacity(rule.over_capacity)] if rated and not is_register else []
    availability = {}
    if has_availability:
        availability["available_at"] = _instant(
            "available_at", now + AHEAD, "more than a day in the future", nullable=True
        )
        of_rows.append(pa.Check(_is_available_after_its_interval, error=TOO_EARLY))
    return pa.DataFrameSchema(
        {
            "timestamp": _instant(
                "timestamp",
                now + bounds.ahead,
                "more than a day in the future"
                if bounds.ahead == AHEAD
                else f"more than {bounds.ahead} in the future (see `ai-hub ingest bounds`)",
                oldest=bounds.earliest,
                too_early=f"before {bounds.earliest:%Y-%m-%d} (see `ai-hub ingest bounds`)",
            ),
            "value": pa.Column("float64", checks, nullable=True),
            "quality": pa.Column(
                "object",
                pa.Check.isin(
                    QUALITIES, error=f"quality is not one of {', '.join(QUALITIES)} (see --quality-map)"
                ),
            ),
            **availability,
        },
        checks=of_rows,
    )


def _is_available_after_its_interval(rows: pd.DataFrame) -> pd.Series[bool]:
    seconds = rows["interval_seconds"].astype("float64").fillna(0)
    ends = rows["timestamp"] + pd.to_timedelta(seconds, unit="s").astype("timedelta64[us]")
    return ~(rows["available_at"] < ends)


def _within_capacity(most: float) -> pa.Check:
    return pa.Check(
        lambda rows: ~(rows["value"].abs() > rows["capacity"] * most),
        error=f"value is above {most:.0%} of the asset's capacity (see `ai-hub asset list`)",
    )


def weather_schema(variables: Iterable[str], now: pd.Timestamp) -> pa.DataFrameSchema:
    """Schema of typed weather rows with these variables."""
    names = list(variables)
    columns: dict[str, Any] = {
        name: pa.Column(
            "float64",
            pa.Check.in_range(
                WEATHER[name].low,
                WEATHER[name].high,
                error=f"{name} is outside {WEATHER[name].low:g}..{WEATHER[name].high:g} {WEATHER[name].unit}",
            ),
            nullable=True,
        )
        for name in names
    }
    return pa.DataFrameSchema(
        {
            "timestamp": _instant("timestamp", now + HORIZON, "more than a year in the future"),
            "available_at": _instant(
                "available_at", now + AHEAD, "in the future (a forecast needs the time it was issued)"
            ),
            **columns,
        },
        checks=pa.Check(lambda rows: rows[names].notna().any(axis=1), error="no weather value is a number"),
    )


def series_schema(now: pd.Timestamp) -> pa.DataFrameSchema:
    """Schema of typed values of an external series."""
    return pa.DataFrameSchema(
        {
            "timestamp": _instant("timestamp", now + HORIZON, "more than a year in the future"),
            "available_at": _instant(
                "available_at",
                now + AHEAD,
                "in the future (a value needs the time it was published, see --available-at)",
            ),
            "value": pa.Column(
                "float64",
                pa.Check(np.isfinite, ignore_na=False, error="value is missing or not a finite number"),
                nullable=True,
            ),
        }
    )


def violations(schema: pa.DataFrameSchema, rows: pd.DataFrame) -> pd.Series[str]:
    """Why rows are rejected, by index; valid rows are absent."""
    try:
        schema.validate(rows, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():  # the frame itself is wrong, which is a bug of ours
            raise
        reasons = cases.drop_duplicates(["index", "check"]).groupby("index", sort=False)["check"]
        return pd.Series(
            {int(line): "; ".join(reasons_of_row) for line, reasons_of_row in reasons}, dtype=object
        )
    return pd.Series(dtype=object)


def validate(dataset: Dataset, rows: pd.DataFrame, by_id: Mapping[str, Asset]) -> pd.Series[str]:
    """Why rows are rejected by the rules of their asset's kind and capacity; empty for valid rows."""
    reasons = pd.Series("", index=rows.index, dtype=object)
    capacities = {asset_id: asset.capacity for asset_id, asset in by_id.items() if asset.capacity is not None}
    if capacities:
        rows = rows.assign(capacity=rows["asset_id"].map(capacities).astype("float64"))
    kinds = rows["asset_id"].map({asset_id: asset.kind for asset_id, asset in by_id.items()})
    registers = rows["asset_id"].map(
        {name: asset.reading is Reading.REGISTER for name, asset in by_id.items()}
    )
    for (kind, is_register), group in rows.groupby([kinds, registers.astype(bool)], sort=False):
        schema = dataset.schema(str(kind), rated=bool(capacities), is_register=bool(is_register))
        reasons.update(violations(schema, group))
    digits = {name: asset.register_digits for name, asset in by_id.items() if asset.register_digits}
    if digits:
        end = 10.0 ** rows["asset_id"].map(digits).astype("float64")
        reasons = reasons.mask((rows["value"] >= end) & (reasons == ""), TOO_MANY_DIGITS)
    return reasons
