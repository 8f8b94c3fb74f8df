"""How a file is written: what options and profiles say of it, beside what the file says itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from ai_hub.ingest.terms import Stamps

#: Cells that stand for no value, in any case; an empty cell does only where a profile says so.
NO_VALUE = ("n/a", "n/e", "-", "--")


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """What the file is not to be asked for; None where it shall tell."""

    encoding: str | None = None
    delimiter: str | None = None
    #: Line of the header, counted from 1; 0 where there is none and columns are called 1, 2, ….
    header: int | None = None
    #: `.` or `,`.
    decimal: str | None = None
    #: Between groups of three digits.
    thousands: str | None = None
    no_value: tuple[str, ...] = NO_VALUE
    #: Only rows whose column has this text.
    where: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    #: Which end of its interval a timestamp is.
    stamps: Stamps | None = None
    #: Length of the periods of a day that a column or the columns of a wide file count.
    period: timedelta | None = None
