"""Datasets (readings, weather): the fields a file must have, and how its cells become typed rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest import localizer, timestamps, validation
from ai_hub.ingest.columns import ASSET_ID, INTERVAL_END, QUALITY, TIMESTAMP, UNIT, VALUE, WEATHER, Field
from ai_hub.ingest.options import UNKNOWN, AssetKind, TemperatureUnit, TimestampFormat
from ai_hub.ingest.policies import BOUNDS, Bounds
from ai_hub.ingest.units import canonical_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandera.pandas as pa

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
    #: Format of the file's timestamps.
    form: TimestampFormat
    #: Other columns with their SQL types; a row is unchanged where all are equal.
    measures: dict[str, str]

    def configure(self, options: Options) -> None:
        """Set the options of the open file."""
        self.form = options.timestamp_format

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
        """Select nothing: a value is required and a quality has a default."""
        del mapping, available

    def convert(self, cells: pd.DataFrame, rows: pd.DataFrame, zones: pd.Series[str]) -> pd.Series[str]:
        """Value, quality (good without one), unit and, where the file has its end, the interval."""
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
            kind, self.now, rated=rated, is_register=is_register, bounds=self.bounds
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
        Field("available_at", ("issued_at", "issue_time")),
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
        if "available_at" in cells:
            issued, reason = self._issue_times(cells["available_at"], zones)
            rows["available_at"] = issued.where(issued.notna(), rows["available_at"])
            reasons = reasons.where(reasons != "", reason)
        return reasons

    def _issue_times(
        self, column: pd.Series[Any], zones: pd.Series[str]
    ) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Instants of the issue times; empty ones are allowed, ambiguous local ones are rejected."""
        issued = localizer.instant_ranges(column, self.form, zones)
        reason = issued.reason.replace(timestamps.MISSING, "")
        reason[issued.earliest.notna() & (issued.earliest != issued.latest)] = localizer.AMBIGUOUS
        return issued.earliest, reason.where(reason == "", "available_at: " + reason)

    def schema(self, kind: str, *, rated: bool, is_register: bool) -> pa.DataFrameSchema:
        """Physical ranges, the same for every kind of asset."""
        del kind, rated, is_register
        return validation.weather_schema(self.measures, self.now)
