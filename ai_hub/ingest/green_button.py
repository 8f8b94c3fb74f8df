"""Green Button XML: readings of the Energy Services Provider Interface (ESPI, NAESB REQ.21) within Atom."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import IO, TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError, XMLParser

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest.tables import BLOCK_ROWS, Block

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ["meter", "flow", "timestamp", "interval_end", "value", "quality", "unit"]
DAMAGED = (ParseError,)
#: Codes of ReadingType.uom that an asset can have.
UNITS = {38: "W", 42: "m3", 72: "Wh", 119: "ft3", 128: "gal", 132: "BTU", 134: "l", 169: "therm"}
_FLOWS = {"1": "delivered", "19": "received", "4": "net", "20": "total"}
#: ReadingType.accumulationBehaviour of registers.
_REGISTERS = {"1", "2", "3"}
_CHUNK = 1 << 16


@dataclass
class _Entry:
    """An entry of the feed: its links, its kind and the fields of that."""

    links: dict[str, list[str]] = field(default_factory=dict)
    kind: str = ""
    fields: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Target of the parser, which collects entries and interval readings."""

    def __init__(self, *, readings: bool) -> None:
        self.entries: list[_Entry] = []
        self.readings: list[tuple[int, _Entry, dict[str, str]]] = []
        self._with_readings = readings
        self._entry = _Entry()
        self._reading: dict[str, str] | None = None
        self._path: list[str] = []
        self._text: list[str] = []
        self._count = 0

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        del name, public, system
        raise BadInputError("The XML file has a document type, which Green Button does not have.")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]
        self._path.append(name)
        self._text.clear()
        if name == "entry":
            self._entry = _Entry()
        elif name == "link":
            self._entry.links.setdefault(attributes.get("rel", ""), []).append(attributes.get("href", ""))
        elif name in {"UsagePoint", "MeterReading", "ReadingType", "IntervalBlock", "LocalTimeParameters"}:
            self._entry.kind = name
        elif name == "IntervalReading":
            self._reading = {}

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        name = tag.rpartition("}")[2]
        self._path.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        if self._reading is not None:
            if name == "IntervalReading":
                self._count += 1
                if self._with_readings:
                    self.readings.append((self._count, self._entry, self._reading))
                self._reading = None
            elif name == "quality" and name in self._reading:
                self._reading[name] = max(self._reading[name], text, key=_doubt)
            elif name in {"start", "duration", "value", "quality"}:
                self._reading.setdefault(name, text)
        elif name == "entry":
            self.entries.append(self._entry)
        elif self._path[-1:] == ["ReadingType"]:
            self._entry.fields[name] = text

    def close(self) -> None:
        """Do nothing at the end of the file."""


def _doubt(code: str) -> int:
    """Rank of a quality code, by which the worst of several is chosen."""
    return {"10": 3}.get(code, 0 if code in {"0", "14", "17", "18", "19", ""} else 2)


class GreenButtonSource:
    """All interval readings of a file; a first pass reads the meters and reading types."""

    delimiter = None
    columns = COLUMNS

    def __init__(self, raw: IO[bytes], size: int) -> None:
        self.notes: list[str] = []
        self.preamble: list[list[str]] = []
        self._raw = raw
        self._size = max(size, 1)
        entries = [entry for reader in self._parse(readings=False) for entry in reader]
        self._types = {link: e.fields for e in entries if e.kind == "ReadingType" for link in _own(e)}
        if not self._types:
            raise BadInputError("The file has no ReadingType, so the meaning of its values is unknown.")
        self._type_of = {
            link: related
            for entry in entries
            if entry.kind == "MeterReading"
            for link in _own(entry)
            for related in map(_path, entry.links.get("related", []))
            if related in self._types
        }
        blocks = [entry for entry in entries if entry.kind == "IntervalBlock"]
        self.meters: list[str] | None = sorted({self._meter(entry)[0] for entry in blocks})
        behaviours = {self._meter(entry)[2].get("accumulationBehaviour", "") for entry in blocks}
        #: Whether the values are those of registers.
        self.is_register = bool(behaviours) and behaviours <= _REGISTERS
        if not self.is_register and behaviours & _REGISTERS:
            raise BadInputError("The file has both cumulative registers and energy per interval.")

    def _parse(self, *, readings: bool) -> Iterator[list[Any]]:
        self._raw.seek(0)
        target = _Reader(readings=readings)
        # Expat limits what entities expand to, and `doctype` refuses those of the file.
        parser = XMLParser(target=target)  # noqa: S314
        while chunk := self._raw.read(_CHUNK):
            parser.feed(chunk)
            items: list[Any] = target.readings if readings else target.entries
            if len(items) >= (BLOCK_ROWS if readings else 1):
                yield list(items)
                items.clear()
                target.entries.clear()
        parser.close()
        yield list(target.readings if readings else target.entries)

    def _meter(self, entry: _Entry) -> tuple[str, str, dict[str, str]]:
        """Meter, flow and reading type of an interval block."""
        links = [_path(link) for rel in ("up", "self") for link in entry.links.get(rel, [])]
        kind = next((self._types[t] for m, t in self._type_of.items() if _under(m, links)), None)
        if kind is None and len(self._types) == 1:
            kind = next(iter(self._types.values()))
        if kind is None:
            raise BadInputError("The file has several reading types and does not say which a block has.")
        flow = _FLOWS.get(kind.get("flowDirection", ""), "")
        point = next((match[1] for link in links if (match := re.search(r"UsagePoint/([^/]+)", link))), "")
        return "-".join(part for part in (point or "meter", flow) if part), flow, kind

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Readings in the order of the file, numbered from 1."""
        for readings in self._parse(readings=True):
            rows = [self._row(entry, reading) for _, entry, reading in readings]
            index = pd.Index([number for number, _, _ in readings], name="line", dtype="int64")
            cells = pd.DataFrame(rows, columns=COLUMNS, index=index, dtype=object)
            yield Block(cells[columns], [], min(self._raw.tell() / self._size, 1.0))

    def _row(self, entry: _Entry, reading: dict[str, str]) -> tuple[str, ...]:
        meter, flow, kind = self._meter(entry)
        code = kind.get("uom", "")
        unit = UNITS.get(int(code) if code.isdigit() else -1, f"uom {code}")
        start, end = reading.get("start", ""), ""
        if start.lstrip("-").isdigit():
            seconds = int(start)
            length = reading.get("duration", "") or kind.get("intervalLength", "")
            end = _instant(seconds + int(length)) if length.isdigit() and int(length) else ""
            start = _instant(seconds)
        return (
            meter,
            flow,
            start,
            end,
            _scaled(reading.get("value", ""), kind),
            reading.get("quality", ""),
            unit,
        )


def _own(entry: _Entry) -> list[str]:
    return [_path(link) for link in entry.links.get("self", [])]


def _path(link: str) -> str:
    return re.sub(r"^\w+://[^/]*", "", link).rstrip("/")


def _under(meter_reading: str, links: list[str]) -> bool:
    return any(link == meter_reading or link.startswith(f"{meter_reading}/") for link in links)


def _instant(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _scaled(value: str, kind: dict[str, str]) -> str:
    """The exact value in its unit: an ESPI integer times its power of ten."""
    try:
        power = int(kind.get("powerOfTenMultiplier") or 0)
        return format(Decimal(value).scaleb(power), "f")
    except (InvalidOperation, ValueError):
        return value
