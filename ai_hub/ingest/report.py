"""What the caller knows about a file, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from ai_hub.ingest.findings import Finding
from ai_hub.ingest.formats import FileFormat
from ai_hub.ingest.terms import Ambiguous, Nonexistent, Reading, Stamps
from ai_hub.ingest.timestamps import TimestampFormat


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a file does not say itself."""

    tenant: str
    #: Asset of every row; without it the file needs a column.
    asset: str | None = None
    #: Zone of local timestamps; by default the asset's own.
    timezone: str | None = None
    #: Column of a field, where its name does not say so.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Of the values, where no column says it; converted to the asset's.
    unit: str | None = None
    #: What a reading is: energy per interval, mean power or a register; by default the asset's.
    reading: Reading | None = None
    #: That every reading covers.
    interval: timedelta | None = None
    #: Whole digits of registers.
    digits: int | None = None
    stamps: Stamps = Stamps.START
    #: Quality (good, estimated or suspect) of each flag in the file; others are read as they are.
    quality_map: Mapping[str, str] = field(default_factory=dict)
    timestamp_format: TimestampFormat = field(default_factory=TimestampFormat)
    #: Name of what the file's format leaves unsaid; see `profiles`.
    profile: str | None = None
    #: How the file is written, where that is known.
    form: FileFormat = field(default_factory=FileFormat)
    ambiguous: Ambiguous = Ambiguous.INFER
    nonexistent: Nonexistent = Nonexistent.REJECT


@dataclass
class Report:
    """What became of every row of a file: `rows` is the sum of the five counts after it."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    rejected: int = 0
    #: Rows that say there is no value, such as N/A; not among `rows`.
    missing: int = 0
    #: How the file was understood, where that was not given.
    understood: list[str] = field(default_factory=list)
    #: Number of rejected rows by reason, the commonest first.
    reasons: dict[str, int] = field(default_factory=dict)
    reject_file: str | None = None
    #: Assets registered because rows arrived for them.
    new_assets: list[str] = field(default_factory=list)
    #: Assets of this file whose unit nobody said.
    without_unit: list[str] = field(default_factory=list)
    #: Intervals that the steps of the file told, in seconds, by asset that did not say its own.
    intervals: dict[str, int] = field(default_factory=dict)
    #: Oddities nobody knew of, by asset.
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    #: Oddities that are no longer so, such as gaps these rows filled.
    resolved: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Rows whose values are in the table now."""
        return self.inserted + self.updated + self.unchanged + self.duplicates

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        lists = {
            name: [{"asset_id": asset_id, **one.as_dict()} for asset_id, one in getattr(self, name)]
            for name in ("findings", "resolved")
        }
        return asdict(self) | lists
