"""NEM12: interval meter data of Australia's market, one day per line (AEMO, Meter Data File Format)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest.tables import BLOCK_ROWS, Block, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ["meter", "nmi", "register", "timestamp", "interval_end", "value", "quality", "unit"]
_INTERVALS = (1, 5, 10, 15, 30, 60)
_DAY_MINUTES = 1440
#: Market time is Australian Eastern Standard Time all year, in every state.
_OFFSET = "+10:00"


@dataclass
class _Stream:
    """A record 200: one register of one meter."""

    nmi: str
    register: str
    unit: str
    minutes: int

    @property
    def meter(self) -> str:
        return f"{self.nmi}-{self.register}"


@dataclass
class _Day:
    """A record 300 and the records 400 after it."""

    line: int
    stream: _Stream
    day: datetime
    values: list[str]
    qualities: list[str]
    varies: bool
    text: str


class Nem12Source:
    """Readings of all meters and registers, in the order of the file."""

    delimiter = ","
    columns = COLUMNS

    def __init__(self, stream: IO[bytes], encoding: str, size: int) -> None:
        self.notes: list[str] = []
        self.preamble: list[list[str]] = []
        self._raw = stream
        self._encoding = encoding
        self._size = max(size, 1)
        self._next = 1
        meters = dict.fromkeys(
            f"{record[1]}-{record[4]}"
            for _, record in self._records()
            if record[0] == "200" and len(record) > 4  # noqa: PLR2004
        )
        if not meters:
            raise BadInputError(
                "The file has no record 200, so it names no meter.", hint="NEM12 begins 100,NEM12."
            )
        self.meters: list[str] | None = list(meters)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        self._raw.seek(0)
        text = io.TextIOWrapper(self._raw, encoding=self._encoding, newline="")
        try:
            reader = csv.reader(text)
            for record in reader:
                if record and any(record):
                    yield reader.line_num, [cell.strip() for cell in record]
        finally:
            text.detach()

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Readings of whole days."""
        rows: list[tuple[Any, ...]] = []
        malformed: list[Malformed] = []
        for day in self._days(malformed):
            rows += _readings(day)
            if len(rows) >= BLOCK_ROWS:
                yield self._block(rows, malformed, columns, 0.5)
                rows, malformed[:] = [], []
        yield self._block(rows, malformed, columns, 1.0)

    def _block(
        self, rows: list[tuple[Any, ...]], malformed: list[Malformed], columns: list[str], fraction: float
    ) -> Block:
        index = pd.RangeIndex(self._next, self._next + len(rows))
        self._next += len(rows)
        cells = pd.DataFrame(rows, columns=["line", *COLUMNS], index=index)
        return Block(cells[["line", *columns]], list(malformed), fraction)

    def _days(self, malformed: list[Malformed]) -> Iterator[_Day]:
        self._next = 1
        stream: _Stream | None = None
        day: _Day | None = None
        for line, record in self._records():
            if record[0] in {"400", "500", "550"}:
                fault = _detail(day, record) if record[0] == "400" else ""
                if fault:
                    malformed.append(Malformed(line, fault, ",".join(record)))
                continue
            if day is not None:
                yield from _complete(day, malformed)
                day = None
            if record[0] == "200":
                stream, fault = _stream(record)
            elif record[0] == "300":
                day, fault = _day(line, record, stream)
            else:
                fault = "" if record[0] in {"100", "900"} else "is no record of NEM12"
            if fault:
                malformed.append(Malformed(line, fault, ",".join(record)))
        if day is not None:
            yield from _complete(day, malformed)


def _stream(record: list[str]) -> tuple[_Stream | None, str]:
    try:
        minutes = int(record[8])
        stream = _Stream(record[1], record[4], record[7], minutes)
    except (IndexError, ValueError):
        return None, "record 200 has no interval length"
    if minutes not in _INTERVALS:
        return None, f"record 200 has intervals of {minutes} minutes"
    return stream, ""


def _day(line: int, record: list[str], stream: _Stream | None) -> tuple[_Day | None, str]:
    if stream is None:
        return None, "record 300 follows no readable record 200"
    count = _DAY_MINUTES // stream.minutes
    flag = record[2 + count] if len(record) > 2 + count else ""
    if not flag[:1].isalpha():
        return None, f"record 300 does not have {count} values of {stream.minutes} minutes and a quality"
    try:
        day = datetime.strptime(record[1], "%Y%m%d")  # noqa: DTZ007 - market time, see `_OFFSET`
    except ValueError:
        return None, f"record 300 has no date: {record[1]!r}"
    values = record[2 : 2 + count]
    return _Day(line, stream, day, values, [flag] * count, flag[0] == "V", ",".join(record)), ""


def _detail(day: _Day | None, record: list[str]) -> str:
    """Apply a record 400 to the qualities of the day's intervals; returns why it is malformed, or nothing."""
    if day is None:
        return "record 400 follows no readable record 300"
    try:
        first, last, flag = int(record[1]), int(record[2]), record[3]
    except (IndexError, ValueError):
        return "record 400 does not say which intervals it is about"
    if not 1 <= first <= last <= len(day.values):
        return f"record 400 is about intervals {first} to {last} of {len(day.values)}"
    day.qualities[first - 1 : last] = [flag] * (last - first + 1)
    return ""


def _complete(day: _Day, malformed: list[Malformed]) -> Iterator[_Day]:
    """The day, unless its quality varies without records 400 for every interval."""
    if day.varies and any(flag.startswith("V") for flag in day.qualities):
        malformed.append(
            Malformed(day.line, "records 400 do not say the quality of every interval", day.text)
        )
    else:
        yield day


def _readings(day: _Day) -> Iterator[tuple[Any, ...]]:
    stream = day.stream
    times = [day.day + timedelta(minutes=stream.minutes * i) for i in range(len(day.values) + 1)]
    stamps = [time.strftime("%Y-%m-%dT%H:%M") + _OFFSET for time in times]
    for i, (value, flag) in enumerate(zip(day.values, day.qualities, strict=True)):
        shown = "" if flag.startswith("N") else value
        yield (
            *(day.line, stream.meter, stream.nmi, stream.register, stamps[i], stamps[i + 1]),
            *(shown, flag, stream.unit),
        )
