from __future__ import annotations

import importlib.util
import inspect
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub import paths

if TYPE_CHECKING:
    from types import ModuleType

ZONES = ["UTC", "Europe/London", "America/Chicago", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]


def load() -> ModuleType:
    file = Path(paths.resource("feature_repo")) / "calendar_features.py"
    spec = importlib.util.spec_from_file_location("calendar_features_under_test", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def calendar() -> Any:
    """The function as Feast runs it: from its source text, with nothing around it."""
    namespace: dict[str, object] = {}
    source = (
        inspect.getsource(load().calendar).replace(": dict[str, Any]", "").replace("-> dict[str, Any]", "")
    )
    exec(source, namespace)  # noqa: S102  # as Feast does
    return namespace["calendar"]


@given(st.sampled_from(ZONES), st.integers(0, 40 * 365 * 24))
def test_calendar__hours_of_any_zone__equal_the_clock_on_the_wall(
    calendar: Any, zone: str, hours: int
) -> None:
    at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    found = calendar({"local_time": [None, int((wall - datetime(1970, 1, 1)).total_seconds())]})  # noqa: DTZ001
    assert found == {
        "hour_of_day": [None, wall.hour],
        "day_of_week": [None, wall.weekday()],
        "day_of_month": [None, wall.day],
        "month": [None, wall.month],
        "is_weekend": [None, int(wall.strftime("%A") in {"Saturday", "Sunday"})],
    }
