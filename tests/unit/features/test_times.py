from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ai_hub.cli.common import duration_text, parse_time
from ai_hub.errors import BadInputError


def test_parse_time__with_and_without_zone() -> None:
    assert parse_time("2026-01-31", "--time") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_time("2026-01-31T06:00+05:30", "--time") == datetime(
        2026, 1, 31, 6, tzinfo=timezone(timedelta(hours=5, minutes=30))
    )
    with pytest.raises(BadInputError, match="--time 'soon' is not a time"):
        parse_time("soon", "--time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1234, "0.12 s"),
        (12.3, "12 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90061, "1 d 1 h"),
        (172800, "2 d"),
    ],
)
def test_duration__is_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
