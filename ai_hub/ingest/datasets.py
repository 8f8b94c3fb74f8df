"""Datasets (readings, weather): the fields a file must have, and how its cells become typed rows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest import localizer, timestamps, validation
from ai_hub.ingest.columns import (
    ASSET_ID,
    AVAILABLE_AT,
    INTERVAL_END,
    OUTSIDE_VALUE,
    QUALITY,
    READING_AVAILABLE_AT,
    SERIES,
    TIMESTAMP,
    UNIT,
    VALUE,
    WEATHER,
    ZONE,
    Field,
    unit_in_name,
)
from ai_hub.ingest.options import UNKNOWN, AssetKind, TemperatureUnit, TimestampFormat
from ai_hub.ingest.policies import BOUNDS, Bounds
from ai_hub.ingest.units import canonical_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandera.pandas as pa
    from psycopg import Connection

    from ai_hub.ingest.options import Options


class Dataset(ABC):
    """One kind of data: its fields, its table and its rules."""

    table: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    required: ClassVar[tuple[str, ...]]
    #: Key columns of the table besides the tenant.
    key: ClassVar[tuple[str, ...]]
    #: Kind of an asset that was not registered before.
    new_kind: ClassVar[str]
    #: Whether stored series are checked for gaps and stuck meters.
    is_series: ClassVar[bool]
    #: Whether rows are of assets, which new ones are registered for.
    has_assets: ClassVar[bool] = True
    #: Format of the file's timestamps.
    form: TimestampFormat
    #: Other columns with their SQL types; a row is unchanged where all are equal.
    measures: dict[str, str]

    def configure(self, options: Options) -> None:
        """Set the options of the open file."""
        self.form = options.timestamp_format

    def prepare(self, connection: Connection[Any] | None, tenant: str) -> None:
        """Compare the file with what is stored; no connection: nothing is known of that.

        Raises:
            BadInputError: they contradict each other.
        """
        del connection, tenant

    def register(self, connection: Connection[Any], tenant: str) -> None:
        """Store what is known of the data besides its rows; called before they are written."""
        del connection, tenant

    @abstractmethod
    def select_fields(self, mapping: Mapping[str, str], available: Sequence[str]) -> None:
        """Select the fields that the file has.

        Raises:
            BadInputError: required fields are missing.
        """

    @abstractmethod
    def convert(self, cells: pd.DataFrame, rows: pd.DataFrame, zones: pd.Series[str]) -> pd.Series[str]:
        """Fill `rows` (`asset_id`, `timestamp` in UTC) from `cells`; returns why each row is rejected."""

    @abstractmethod
    def schema(self, kind: str, *, rated: bool, is_register: bool) -> pa.DataFrameSchema:
        """Rules for rows of this kind of asset; `rated`: the rows have a column `capacity`."""


def numbers(column: pd.Series[Any], name: str) -> tuple[pd.Series[float], pd.Series[str]]:
    """Column as numbers (NaN for an empty cell), and why a row is rejected."""
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    reason = pd.Series("", index=column.index, dtype=object)
    text = column[values.isna()].dropna().astype(str).str.strip().str.casefold()
    reason[text.index[~text.isin(["", "nan"])]] = f"{name} is not a number"
    return values, reason


def issue_times(
    cells: pd.DataFrame, rows: pd.DataFrame, form: TimestampFormat, zones: pd.Series[str]
) -> pd.Series[str]:
    """Set `available_at` where the file has it; ambiguous local times are rejected."""
    if AVAILABLE_AT.name not in cells:
        return pd.Series("", index=rows.index, dtype=object)
    issued = localizer.instant_ranges(cells[AVAILABLE_AT.name], form, zones)
    reason = issued.reason.replace(timestamps.MISSING, "")
    reason[issued.earliest.notna() & (issued.earliest != issued.latest)] = localizer.AMBIGUOUS
    rows["available_at"] = issued.earliest.where(issued.earliest.notna(), rows["available_at"])
    return reason.where(reason == "", "available_at: " + reason)


@dataclass
class Readings(Dataset):
    """Meter readings into `timeseries_data`."""

    now: pd.Timestamp
    bounds: Bounds = BOUNDS
    form: TimestampFormat = field(default_factory=TimestampFormat)
    #: Quality by flag of the file.
    qualities: Mapping[str, str] = field(default_factory=dict)
    table = "timeseries_data"
    fields = (
        TIMESTAMP,
        ASSET_ID,
        VALUE,
        QUALITY,
        UNIT,
        INTERVAL_END,
        READING_AVAILABLE_AT,
    )
    required = ("timestamp", "value")
    key = ("asset_id", "timestamp")
    new_kind = UNKNOWN
    is_series = True

    def __post_init__(self) -> None:
        self.measures = {"value": "float8", "quality": "text", "interval_seconds": "integer"}

    def configure(self, options: Options) -> None:
        """Set the options of the open file, also the meaning of its quality flags."""
        super().configure(options)
        self.qualities = options.quality_map

    def select_fields(self, mapping: Mapping[str, str], available: Sequence[str]) -> None:
        """Select `available_at`, which is left as it is stored where the file has no such column."""
        del available
        if READING_AVAILABLE_AT.name in mapping:
            self.measures["available_at"] = "bigint"

    def convert(self, cells: pd.DataFrame, rows: pd.DataFrame, zones: pd.Series[str]) -> pd.Series[str]:
        """Value, quality (good without one), unit; where the file has them interval and `available_at`."""
        rows["value"], reason = numbers(cells["value"], "value")
        rows["quality"] = "good"
        if "quality" in cells:
            flags = cells["quality"].astype("string").str.strip()
            qualities = flags.map(
                {**{flag: flag.casefold() for flag in flags.dropna().unique()}, **self.qualities}
            )
            rows["quality"] = qualities.where(qualities != "").fillna("good").astype(object)
        rows["unit"] = ""
        if "unit" in cells:
            units = cells["unit"].astype("string").str.strip().fillna("")
            rows["unit"] = units.map({unit: canonical_unit(unit) for unit in units.unique()}).astype(object)
        rows["interval_seconds"] = pd.Series(pd.NA, index=rows.index, dtype="Int64")
        if INTERVAL_END.name in cells:
            length, ended = self._lengths(cells[INTERVAL_END.name], rows["timestamp"], zones)
            rows["interval_seconds"] = length
            reason = reason.where(reason != "", ended)
        if READING_AVAILABLE_AT.name in cells:
            rows["available_at"] = pd.Series(pd.NaT, index=rows.index, dtype=rows["timestamp"].dtype)
            reason = reason.where(reason != "", issue_times(cells, rows, self.form, zones))
        return reason

    def _lengths(
        self, column: pd.Series[Any], begin: pd.Series[Any], zones: pd.Series[str]
    ) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Seconds from `begin` to the end in `column`; the first instant of an ambiguous local end."""
        ends = localizer.instant_ranges(column, self.form, zones, ends=True)
        reason = ends.reason.replace(timestamps.MISSING, "")
        end = ends.earliest.where(ends.earliest > begin, ends.latest)
        seconds = (end - begin).dt.total_seconds().round()
        reason = reason.where((reason != "") | ~(seconds <= 0), "the interval ends before it begins")
        return seconds.astype("Int64"), reason.where(reason == "", f"{INTERVAL_END.name}: " + reason)

    def schema(self, kind: str, *, rated: bool, is_register: bool) -> pa.DataFrameSchema:
        """Rules of the kind of meter."""
        return validation.readings_schema(
            kind,
            self.now,
            rated=rated,
            is_register=is_register,
            bounds=self.bounds,
            has_availability="available_at" in self.measures,
        )


@dataclass
class Weather(Dataset):
    """Observations and forecasts into `weather_features`."""

    now: pd.Timestamp
    form: TimestampFormat
    temperature_unit: TemperatureUnit
    #: Delay after its timestamp at which an observation without an issue time becomes available.
    available_after: pd.Timedelta
    table = "weather_features"
    fields = (
        TIMESTAMP,
        ASSET_ID,
        AVAILABLE_AT,
        *WEATHER,
    )
    required = ("timestamp",)
    key = ("asset_id", "timestamp", "available_at")
    new_kind = AssetKind.WEATHER
    # Forecasts of one hour overlap, and calm or dry days repeat a value.
    is_series = False

    def __post_init__(self) -> None:
        self.measures: dict[str, str] = {}

    def select_fields(self, mapping: Mapping[str, str], available: Sequence[str]) -> None:
        """Select the weather variables that the file has; at least one.

        Raises:
            BadInputError: it has none.
        """
        self.measures = {name: "float8" for name in validation.WEATHER if name in mapping}
        if not self.measures:
            raise BadInputError(
                f"No column of the file is recognised as weather ({', '.join(validation.WEATHER)}).",
                hint=f"The file's columns are: {', '.join(available)}. "
                "Name the right ones, for example --columns temperature=COLUMN.",
            )

    def convert(self, cells: pd.DataFrame, rows: pd.DataFrame, zones: pd.Series[str]) -> pd.Series[str]:
        """Every variable, temperatures in °C, and `available_at`."""
        reasons = pd.Series("", index=rows.index, dtype=object)
        for name in self.measures:
            rows[name], reason = numbers(cells[name], name)
            reasons = reasons.where(reasons != "", reason)
        if "temperature" in rows and self.temperature_unit is TemperatureUnit.FAHRENHEIT:
            rows["temperature"] = ((rows["temperature"] - 32) * 5 / 9).round(6)
        rows["available_at"] = rows["timestamp"] + self.available_after
        reason = issue_times(cells, rows, self.form, zones)
        return reasons.where(reasons != "", reason)

    def schema(self, kind: str, *, rated: bool, is_register: bool) -> pa.DataFrameSchema:
        """Physical ranges, the same for every kind of asset."""
        del kind, rated, is_register
        return validation.weather_schema(self.measures, self.now)


@dataclass
class Series(Dataset):
    """External series (prices, tariffs, grid load, forecasts of others) into `covariates`.

    The pipeline's `asset_id` is the zone of a value; `EVERYWHERE` where the file has none.
    """

    now: pd.Timestamp
    form: TimestampFormat
    #: Of every row; None: the file has a column for it.
    name: str | None
    unit: str | None
    #: Delay after its timestamp at which a value without an issue time becomes available.
    available_after: pd.Timedelta
    #: Local time of the day before at which values without an issue time are available instead.
    day_ahead: time | None = None
    table = "covariates"
    fields = (TIMESTAMP, ZONE, SERIES, OUTSIDE_VALUE, AVAILABLE_AT)
    key = ("series", "zone", "timestamp", "available_at")
    new_kind = UNKNOWN
    is_series = False
    has_assets = False

    def __post_init__(self) -> None:
        if self.name is not None and (problem := _series_problem(self.name)):
            raise BadInputError(f"--series {self.name}: {problem}.")
        if self.name is None and self.unit is not None:
            raise BadInputError("--unit is that of one series.", hint="Name it with --series.")
        self.required = ("timestamp", "value") if self.name else ("timestamp", "value", "series")  # type: ignore[misc]  # of this file
        self.measures = {"value": "float8"}
        self._names: set[str] = {self.name} if self.name else set()

    def select_fields(self, mapping: Mapping[str, str], available: Sequence[str]) -> None:
        """Take the unit from the name of the column, unless an option has it."""
        del available
        if self.name and self.unit is None and "value" in mapping:
            self.unit = unit_in_name(mapping["value"])

    def prepare(self, connection: Connection[Any] | None, tenant: str) -> None:
        """Compare the unit with that of the stored series.

        Raises:
            BadInputError: they differ.
        """
        if connection is None or self.unit is None:
            return
        row = connection.execute(
            "SELECT unit FROM covariate_series WHERE tenant_id = %s AND series = %s", [tenant, self.name]
        ).fetchone()
        if row and row[0] and row[0].casefold() != self.unit.casefold():
            raise BadInputError(
                f"The series {self.name} is in {row[0]}, and the file in {self.unit}.",
                hint="Convert the file, or give the series another name.",
            )

    def register(self, connection: Connection[Any], tenant: str) -> None:
        """Store the names of the series, and a unit where none was known."""
        connection.execute(
            "INSERT INTO covariate_series AS stored (tenant_id, series, unit)"
            " SELECT %s, name, %s FROM unnest(%s::text[]) AS name"
            " ON CONFLICT (tenant_id, series) DO UPDATE SET unit = excluded.unit"
            " WHERE stored.unit IS NULL AND excluded.unit IS NOT NULL",
            [tenant, self.unit, sorted(self._names)],
        )

    def convert(self, cells: pd.DataFrame, rows: pd.DataFrame, zones: pd.Series[str]) -> pd.Series[str]:
        """Value, name of the series, zone and `available_at`."""
        rows["value"], reasons = numbers(cells["value"], "value")
        rows["zone"] = rows["asset_id"].where(rows["asset_id"] != EVERYWHERE, "")
        rows["series"] = self.name
        if self.name is None:
            rows["series"] = cells["series"].astype("string").str.strip().fillna("").astype(object)
            problems = {name: _series_problem(name) for name in rows["series"].unique()}
            reasons = reasons.where(reasons != "", rows["series"].map(problems))
            self._names |= {name for name, problem in problems.items() if not problem}
        rows["available_at"] = rows["timestamp"] + self.available_after
        if self.day_ahead is not None:
            rows["available_at"] = _day_before(rows["timestamp"], self.day_ahead, zones)
        return reasons.where(reasons != "", issue_times(cells, rows, self.form, zones))

    def schema(self, kind: str, *, rated: bool, is_register: bool) -> pa.DataFrameSchema:
        """Finite numbers that could be read by now."""
        del kind, rated, is_register
        return validation.series_schema(self.now)


#: Zone in the pipeline of values that are the same for all assets.
EVERYWHERE = "*"
_SERIES = re.compile(r"[a-z][a-z0-9_]{0,47}")


def _series_problem(name: str) -> str:
    """Why a series cannot have the name; empty: it can."""
    if _SERIES.fullmatch(name) and name != "value":
        return ""
    return "series is no name: a small letter, then at most 47 small letters, digits and _, and not value"


def _day_before(times: pd.Series[Any], published: time, zones: pd.Series[str]) -> pd.Series[Any]:
    """The local time `published` on the day before each of the times."""
    parts = []
    for zone, group in times.groupby(zones, sort=False):
        days = group.dt.tz_convert(zone).dt.tz_localize(None).dt.normalize() - pd.Timedelta(days=1)
        moments = days + pd.Timedelta(hours=published.hour, minutes=published.minute)
        local = moments.dt.tz_localize(zone, ambiguous=False, nonexistent="shift_forward")
        parts.append(local.dt.tz_convert("UTC").astype(times.dtype))
    return pd.concat(parts).reindex(times.index) if parts else times
