"""Oddities of series: what one is, and how those just found and those stored become one list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ai_hub.ingest.terms import FindingKind


@dataclass(frozen=True)
class Finding:
    """One oddity of an asset's series; a gap lies between two readings, a stuck run includes both ends."""

    kind: FindingKind
    first: datetime
    last: datetime
    detail: Mapping[str, Any] = field(hash=False)

    def overlaps(self, other: Finding) -> bool:
        """Whether both tell of the same oddity."""
        if self.kind is not other.kind:
            return False
        if self.kind is FindingKind.GAP:
            return self.first < other.last and other.first < self.last
        return self.first <= other.last and other.first <= self.last

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind.value,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            **self.detail,
        }


@dataclass
class Changes:
    """What makes the stored findings those of the series."""

    #: To store; each also under its own key if that is stored already.
    put: list[Finding] = field(default_factory=list)
    #: Those of `put` that nothing stored told of.
    new: list[Finding] = field(default_factory=list)
    #: Stored ones whose oddity goes on under another first timestamp.
    moved: list[Finding] = field(default_factory=list)
    #: Stored ones that are no longer so.
    resolved: list[Finding] = field(default_factory=list)


def reconcile(stored: list[Finding], found: list[Finding]) -> Changes:
    """Compare open findings with what the series shows now, over the same range.

    One that grew or shrank stays one finding; what is left of a gap after a part was filled is not new.
    """
    changes = Changes()
    known = {(each.kind, each.first): each for each in stored}
    current = {(each.kind, each.first) for each in found}
    ended = [each for key, each in known.items() if key not in current]
    for each in found:
        same = known.get((each.kind, each.first))
        if same == each:
            continue
        changes.put.append(each)
        if same is not None:
            continue
        if before := next((one for one in ended if one.overlaps(each)), None):
            ended.remove(before)
            changes.moved.append(before)
        elif not any(one.overlaps(each) for one in stored):
            changes.new.append(each)
    changes.resolved = ended
    return changes
