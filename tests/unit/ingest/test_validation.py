from __future__ import annotations

import math
import os
import subprocess
import sys

import pandas as pd
import pytest

from ai_hub.errors import BadInputError
from ai_hub.ingest import validation
from ai_hub.ingest.options import AssetKind
from ai_hub.ingest.units import KINDS, check_unit

NOW = pd.Timestamp("2026-01-01", tz="UTC")


def readings(value: float = 1.0, quality: str = "good", timestamp: str = "2025-06-01") -> pd.DataFrame:
    """One reading as line 7 and a good one as line 8."""
    frame = pd.DataFrame(
        {
            "timestamp": pd.to_datetime([timestamp, "2025-06-02"], utc=True, format="ISO8601").as_unit("us"),
            "value": [value, 1.0],
            "quality": [quality, "good"],
        }
    )
    frame.index = pd.Index([7, 8])
    return frame


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (readings(math.nan), "not a finite number"),
        (readings(math.inf), "not a finite number"),
        (readings(-math.inf), "not a finite number"),
        (readings(-0.1), "below 0, impossible for gas"),
        (readings(quality="great"), "quality is not one of"),
        (readings(timestamp="2026-01-02T00:00:01"), "future"),
        (readings(timestamp="1970-01-01"), "before 2005-01-01"),
        (readings(timestamp="2000-01-01"), "before 2005-01-01"),
    ],
)
def test_readings_schema__bad_row__is_named_and_the_good_one_is_not(rows: pd.DataFrame, reason: str) -> None:
    actual = validation.violations(validation.readings_schema("gas", NOW), rows)
    assert list(actual.index) == [7]
    assert reason in actual[7]


def test_violations__several_in_one_row__are_all_named() -> None:
    actual = validation.violations(validation.readings_schema("gas", NOW), readings(-1.0, "great"))
    assert actual[7].count(";") == 1


@pytest.mark.parametrize("kind", sorted({*AssetKind, "something new"} - {AssetKind.WEATHER}))
def test_readings_schema__capacity__bounds_the_magnitude_with_a_tenth_to_spare(kind: str) -> None:
    schema = validation.readings_schema(kind, NOW, rated=True)
    sign = -1 if kind == "electricity" else 1
    for value, capacity, is_taken in ((11.0, 10, True), (11.01, 10, False), (1e9, math.nan, True)):
        actual = validation.violations(schema, readings(sign * value).assign(capacity=float(capacity)))
        assert actual.empty == is_taken
        assert is_taken or "above 110% of the asset's capacity" in actual[7]


@pytest.mark.parametrize("kind", ["electricity", "unknown", "something new"])
def test_readings_schema__kind_that_can_run_backwards__takes_negative_values(kind: str) -> None:
    assert validation.violations(validation.readings_schema(kind, NOW), readings(-5.0)).empty


def test_readings_schema__timestamp_of_a_clock_slightly_ahead__is_taken() -> None:
    assert validation.violations(
        validation.readings_schema("gas", NOW), readings(timestamp="2026-01-01T23:00")
    ).empty


def weather(available_at: str = "2025-06-01", **values: float) -> pd.DataFrame:
    instants = pd.to_datetime(["2025-06-01", available_at], utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {
            "timestamp": instants[:1],
            "available_at": instants[1:],
            **{name: [float(value)] for name, value in values.items()},
        }
    )


@pytest.mark.parametrize("name", sorted(validation.WEATHER))
def test_weather_schema__values_at_and_past_the_bounds__are_told_apart(name: str) -> None:
    schema = validation.weather_schema([name], NOW)
    bounds = validation.WEATHER[name]
    for value in (bounds.low, bounds.high):
        assert validation.violations(schema, weather(**{name: value})).empty
    for value in (bounds.low - 0.1, bounds.high + 0.1, math.inf):
        assert f"{name} is outside" in validation.violations(schema, weather(**{name: value}))[0]


def test_weather_schema__some_values_missing__is_taken_but_not_all() -> None:
    schema = validation.weather_schema(["temperature", "humidity"], NOW)
    assert validation.violations(schema, weather(temperature=math.nan, humidity=50.0)).empty
    actual = validation.violations(schema, weather(temperature=math.nan, humidity=math.nan))
    assert actual[0] == "no weather value is a number"


def test_weather_schema__known_only_in_the_future__asks_for_the_issue_time() -> None:
    actual = validation.violations(
        validation.weather_schema(["humidity"], NOW), weather("2026-02-01", humidity=1.0)
    )
    assert "needs the time it was issued" in actual[0]


def test_check_unit__spelling__becomes_the_usual_one() -> None:
    assert check_unit("electricity", "KWH") == "kWh"
    assert check_unit("unknown", "furlong") == "furlong"


def test_check_unit__of_another_kind__lists_those_that_fit() -> None:
    with pytest.raises(BadInputError, match="Use one of Wh, kWh"):
        check_unit("electricity", "therm")


def test_kinds__every_kind_of_the_command_line__has_a_rule_or_needs_none() -> None:
    assert set(AssetKind) - set(KINDS) == {AssetKind.WEATHER, AssetKind.UNKNOWN}


def test_import__leaves_the_zones_of_times_in_arrow_alone() -> None:
    # in a process of its own: the import happens once
    program = """
import ai_hub.ingest.validation
import pyarrow as pa
from datetime import datetime
from zoneinfo import ZoneInfo
local = datetime(2026, 10, 25, 0, 0, tzinfo=ZoneInfo("Europe/Berlin"))
print(pa.array([local], pa.timestamp("us", tz="UTC"))[0])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYARROW_IGNORE_TIMEZONE"}
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert said.stdout.strip() == "2026-10-24 22:00:00+00:00"
