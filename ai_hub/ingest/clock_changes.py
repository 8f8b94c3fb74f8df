"""Which clock changes a file in local time goes through, and how many of its rows they concern."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ai_hub.ingest.detect import to_instant
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.terms import FindingKind
from ai_hub.ingest.zones import Transitions, transitions

if TYPE_CHECKING:
    from ai_hub.ingest.cadence import Micros

_DAY = 86_400_000_000
_NEVER = np.iinfo(np.int64).max // 2


@dataclass
class _Tally:
    """What a file shows of one clock change of one asset."""

    kind: FindingKind
    zone: str
    start: int
    end: int
    rows: int = 0
    rejected: int = 0
    sides: set[str] = field(default_factory=set)


class ClockChanges:
    """Counts the rows of a file that a clock change concerns; memory grows with assets, not rows."""

    def __init__(self) -> None:
        #: By asset, then by the instant of the change.
        self._tallies: dict[str, dict[int, _Tally]] = defaultdict(dict)

    def note(
        self,
        wall: pd.Series[Any],
        asset_ids: pd.Series[str],
        zone: str,
        earliest: pd.Series[Any],
        latest: pd.Series[Any],
    ) -> None:
        """Count rows by their local time and the instants it had."""
        changes = _around(wall, zone)
        if not len(changes.at):
            return
        absent = earliest.isna()
        known = earliest[~absent].astype("int64").to_numpy()
        assets = asset_ids[earliest.index[~absent]]
        following = np.searchsorted(changes.at, known, side="right")
        upcoming = np.append(changes.at, _NEVER)[following] - known <= _DAY
        self._come_to("before", zone, changes, assets[upcoming], following[upcoming])
        since = known - np.append(-_NEVER, changes.at)[following] < _DAY
        self._come_to("after", zone, changes, assets[since], following[since] - 1)
        twice = (earliest != latest)[~absent].to_numpy()
        self._count(zone, changes, assets[twice], following[twice])
        skipped = np.searchsorted(
            changes.at + changes.before, wall[absent].astype("int64").to_numpy(), side="right"
        )
        self._count(zone, changes, asset_ids[wall.index[absent]], skipped - 1)

    def note_rejected(self, asset_ids: pd.Series[str], wall: pd.Series[Any]) -> None:
        """Count rows, noted before, that were rejected for their local time."""
        for asset, walls in wall.astype("int64").groupby(asset_ids, sort=False):
            for tally in self._tallies[str(asset)].values():
                tally.rejected += int(((walls >= tally.start) & (walls < tally.end)).sum())

    def findings(self) -> list[tuple[str, Finding]]:
        """Clock changes by asset: a skipped hour the rows come to both sides of, a repeated one with rows."""
        return [
            (asset_id, _finding(at, tally))
            for asset_id, tallies in sorted(self._tallies.items())
            for at, tally in sorted(tallies.items())
            if tally.rows or (tally.kind is FindingKind.SKIPPED_HOUR and len(tally.sides) == 2)  # noqa: PLR2004 - both
        ]

    def _come_to(
        self, side: str, zone: str, changes: Transitions, assets: pd.Series[str], which: Micros
    ) -> None:
        for asset, index in set(zip(assets, which.tolist(), strict=True)):
            self._tally(asset, zone, changes, index).sides.add(side)

    def _count(self, zone: str, changes: Transitions, assets: pd.Series[str], which: Micros) -> None:
        for (asset, index), count in Counter(zip(assets, which.tolist(), strict=True)).items():
            self._tally(asset, zone, changes, index).rows += count

    def _tally(self, asset: str, zone: str, changes: Transitions, index: int) -> _Tally:
        at, before, delta = (int(column[index]) for column in changes)
        tallies = self._tallies[asset]
        if at not in tallies:
            kind = FindingKind.SKIPPED_HOUR if delta > 0 else FindingKind.REPEATED_HOUR
            tallies[at] = _Tally(kind, zone, at + before + min(delta, 0), at + before + max(delta, 0))
        return tallies[at]


def shift_forward(wall: pd.Series[Any], zone: str) -> pd.Series[Any]:
    """Instants of local times that never occurred, as shown by a clock that was not put forward."""
    changes = _around(wall, zone)
    local = wall.astype("int64").to_numpy()
    which = np.searchsorted(changes.at + changes.before, local, side="right") - 1
    instants = pd.to_datetime(local - changes.before[which], unit="us", utc=True)
    return pd.Series(instants, index=wall.index).astype("datetime64[us, UTC]")


def _around(wall: pd.Series[Any], zone: str) -> Transitions:
    """Clock changes from the year before the first local time to the year after the last."""
    if not len(wall):
        return Transitions(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    return transitions(zone, wall.min().year - 1, wall.max().year + 1)


def _finding(at: int, tally: _Tally) -> Finding:
    detail = {
        "zone": tally.zone,
        "local_from": to_instant(tally.start).replace(tzinfo=None).isoformat(" ", "minutes"),
        "local_until": to_instant(tally.end).replace(tzinfo=None).isoformat(" ", "minutes"),
        "rows": tally.rows,
        "rejected": tally.rejected,
    }
    return Finding(tally.kind, to_instant(at), to_instant(at), detail)
