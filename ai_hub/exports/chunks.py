"""How an export is cut: into months if asked for, and each into groups of assets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HOUR: Final = timedelta(hours=1)
#: Feature rows go on for so long after the last reading.
_TAIL: Final = timedelta(hours=25)
#: Not `month`, which is a feature.
_PARTITION: Final = "year_month"


@dataclass(frozen=True)
class Span:
    """An asset, and the hours of the first and last reading of each period; None: it has no readings."""

    asset: str
    periods: tuple[tuple[datetime, datetime], ...] | None

    def rows(self, start: datetime, end: datetime) -> int:
        """How many hourly rows in [start, end) it has at most; where that is not known, as for all hours."""
        if self.periods is None:
            return _hours(start, end)
        return sum(_hours(max(start, first), min(end, last + _TAIL)) for first, last in self.periods)


def _hours(start: datetime, end: datetime) -> int:
    """Hours that [start, end) touches."""
    return max(0, -((start - end) // _HOUR))


@dataclass(frozen=True)
class Chunk:
    """Rows of some assets, in order, in [start, end)."""

    assets: tuple[str, ...]
    start: datetime
    end: datetime

    @property
    def month(self) -> str:
        """Month that it begins in, in UTC."""
        return f"{self.start:%Y-%m}"


def file_of_month(month: str) -> str:
    """Where the rows of a month are, below the folder of the export."""
    return f"{_PARTITION}={month}/part-0.parquet"


def files_by_month(start: datetime, end: datetime) -> list[str]:
    """Every file that [start, end) can have below the folder of the export."""
    return [file_of_month(f"{first:%Y-%m}") for first, _ in months(start, end)]


def chunks(
    spans: Sequence[Span], start: datetime, end: datetime, *, rows: int, by_month: bool
) -> list[Chunk]:
    """Chunks of about `rows` rows at most, in the order that the files have: month, asset.

    Args:
        spans: in the order of the assets.
        start: the first hour.
        end: not included.
        rows: of one asset there can be more.
        by_month: no chunk reaches over the end of a month in UTC.
    """
    return [
        Chunk(tuple(assets), first, last)
        for first, last in (months(start, end) if by_month else [(start, end)])
        for assets in _groups(spans, first, last, rows)
    ]


def months(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) month by month."""
    while start < end:
        following = (
            start.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)
        ).replace(day=1)
        yield start, min(following, end)
        start = following


def _groups(spans: Sequence[Span], start: datetime, end: datetime, rows: int) -> Iterator[list[str]]:
    group: list[str] = []
    filled = 0
    for span in spans:
        # other sources can have rows where there are no readings
        count = max(1, span.rows(start, end))
        if group and filled + count > rows:
            yield group
            group, filled = [], 0
        group.append(span.asset)
        filled += count
    if group:
        yield group
