"""Times on the command line."""

from __future__ import annotations

from datetime import datetime

from ai_hub.errors import BadInputError
from ai_hub.times import assume_utc


def parse_time(text: str, option: str) -> datetime:
    """An ISO 8601 time, in UTC if it names no zone.

    Raises:
        BadInputError: it is none.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(
            f"{option} {text!r} is not a time.", hint="Write 2026-01-31 or 2026-01-31T06:00Z."
        ) from error
    return assume_utc(time)


def duration(seconds: float) -> str:
    """Seconds for a reader: `0.12 s`, `4 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "d"), (hours, "h"), (rest if not days else 0, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
