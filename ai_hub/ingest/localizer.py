"""Localization of a file's local times to instants in UTC, through clock changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ai_hub.ingest import timestamps
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.options import Ambiguous, FindingKind, Nonexistent, TimestampFormat
from ai_hub.ingest.timezones import Transitions, localize, named_offset, next_change, transitions
from ai_hub.times import from_micros

if TYPE_CHECKING:
    from ai_hub.ingest.timestamps import ParsedTimestamps
    from ai_hub.times import Micros

ZONE_NAME = "the name of the time zone means different times (say --timezone)"
NOT_REPEATED = "local time is marked A or B but did not occur twice (check --timezone)"
NONEXISTENT = "local time never occurred: clocks went forward (check --timezone, see --nonexistent)"
AMBIGUOUS = (
    "local time occurred twice: clocks went back, and the order of rows does not tell (see --ambiguous)"
)


@dataclass
class InstantRanges:
    """Earliest and latest instant of timestamps in UTC; NaT, and a reason, for those without any."""

    earliest: pd.Series[Any]
    latest: pd.Series[Any]
    reason: pd.Series[str]


def instant_ranges(
    column: pd.Series[Any], form: TimestampFormat, zones: pd.Series[str], *, ends: bool = False
) -> InstantRanges:
    """Earliest and latest instant of each timestamp of a column.

    Args:
        column: Text, numbers, dates or timestamps.
        form: How the file writes timestamps.
        zones: Time zone of each row, for local times.
        ends: Whether they are ends of intervals; see `timezones.localize`.
    """
    instants = timestamps.parse(column, form)
    earliest = instants.wall.dt.tz_localize("UTC").copy()
    latest, reason = earliest.copy(), instants.reason
    local = resolve_zone_names(instants, zones, earliest, latest, reason)
    for zone, wall in instants.wall[local].groupby(zones[local], sort=False):
        first, last = localize(wall, str(zone), ends=ends)
        apply_fold_suffixes(instants.suffixes, first, last, reason)
        earliest.loc[wall.index], latest.loc[wall.index] = first, last
        reason.loc[wall.index[first.isna() & (reason[wall.index] == "")]] = NONEXISTENT
    return InstantRanges(earliest, latest, reason)


def resolve_zone_names(
    instants: ParsedTimestamps,
    zones: pd.Series[str],
    earliest: pd.Series[Any],
    latest: pd.Series[Any],
    reason: pd.Series[str],
) -> pd.Series[bool]:
    """Set the instants of rows that name their zone (such as CEST); returns which rows are still local."""
    local = instants.is_local.copy()
    names = instants.suffixes[instants.suffixes.str.len() > 1]
    for (name, zone), rows in names.groupby([names, zones[names.index]], sort=False):
        offset = named_offset(str(name), str(zone))
        local[rows.index] = False
        utc = instants.wall[rows.index] - pd.Timedelta(minutes=offset or 0)
        resolved = utc.dt.tz_localize("UTC").where(pd.Series(offset is not None, index=rows.index))
        if offset is None:
            reason[rows.index] = ZONE_NAME
        earliest.loc[rows.index], latest.loc[rows.index] = resolved, resolved
    return local


def apply_fold_suffixes(
    suffixes: pd.Series[str], earliest: pd.Series[Any], latest: pd.Series[Any], reason: pd.Series[str]
) -> None:
    """Use the first pass through a repeated hour for rows with suffix A, the second for rows with B."""
    letters = suffixes[suffixes.index.isin(earliest.index) & (suffixes.str.len() == 1)]
    if letters.empty:
        return
    twice = (earliest != latest)[letters.index]
    first, second = letters.index[letters.eq("A") & twice], letters.index[letters.eq("B") & twice]
    latest[first], earliest[second] = earliest[first], latest[second]
    not_repeated = letters.index[~twice]
    reason[not_repeated] = NOT_REPEATED
    earliest[not_repeated] = latest[not_repeated] = pd.NaT


def infer_order(pending: pd.DataFrame, descending: set[str], *, ends: bool = False) -> pd.Series[str]:
    """`earliest` or `latest` for rows whose local time occurred twice; empty where the order is unclear.

    Local times that step back within an asset's rows separate the first pass through the hour from the
    second. With one reading per hour that step is zero; in a denser series an equal time is a duplicate.

    Args:
        pending: `asset_id`, naive `wall` and instant of the clock `change`, in the order of the file.
        descending: Assets whose rows run from new to old.
        ends: Whether timestamps are ends of intervals; then the hour includes both of its edges.
    """
    most_edges = 2 if ends else 1
    order = pd.Series("", index=pending.index, dtype=object)
    for (asset, _), rows in pending["wall"].groupby([pending["asset_id"], pending["change"]], sort=False):
        ordered = rows[::-1] if asset in descending else rows
        steps = ordered.diff().dt.total_seconds().to_numpy()
        steps_back = steps <= 0 if ordered.nunique() <= most_edges else steps < 0
        if steps_back.sum() == 1:
            order.loc[ordered.index] = np.where(np.cumsum(steps_back) == 0, "earliest", "latest")
    return order


_DAY = 86_400_000_000
_NEVER = np.iinfo(np.int64).max // 2


@dataclass
class _Tally:
    """Rows of one asset at one clock change; local times in microseconds."""

    kind: FindingKind
    zone: str
    start: int
    end: int
    rows: int = 0
    rejected: int = 0
    sides: set[str] = field(default_factory=set)


class ClockChanges:
    """Counts of a file's rows at each clock change; memory grows with assets, not with rows."""

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
        """Count rows by their local time and its earliest and latest instant."""
        changes = _around(wall, zone)
        if not len(changes.at):
            return
        absent = earliest.isna()
        instants = earliest[~absent].astype("int64").to_numpy()
        assets = asset_ids[earliest.index[~absent]]
        following = np.searchsorted(changes.at, instants, side="right")
        upcoming = np.append(changes.at, _NEVER)[following] - instants <= _DAY
        self._add_side("before", zone, changes, assets[upcoming], following[upcoming])
        since = instants - np.append(-_NEVER, changes.at)[following] < _DAY
        self._add_side("after", zone, changes, assets[since], following[since] - 1)
        twice = (earliest != latest)[~absent].to_numpy()
        self._count(zone, changes, assets[twice], following[twice])
        skipped = np.searchsorted(
            changes.at + changes.before, wall[absent].astype("int64").to_numpy(), side="right"
        )
        self._count(zone, changes, asset_ids[wall.index[absent]], skipped - 1)

    def note_rejected(self, asset_ids: pd.Series[str], wall: pd.Series[Any]) -> None:
        """Count rejected rows, which `note` has counted as rows already."""
        for asset, walls in wall.astype("int64").groupby(asset_ids, sort=False):
            for tally in self._tallies[str(asset)].values():
                tally.rejected += int(((walls >= tally.start) & (walls < tally.end)).sum())

    def findings(self) -> list[tuple[str, Finding]]:
        """By asset, skipped hours with rows inside or on both sides, and repeated hours with rows."""
        return [
            (asset_id, _finding(at, tally))
            for asset_id, tallies in sorted(self._tallies.items())
            for at, tally in sorted(tallies.items())
            if tally.rows or (tally.kind is FindingKind.SKIPPED_HOUR and len(tally.sides) == 2)  # noqa: PLR2004 - both
        ]

    def _add_side(
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
    """Instants of nonexistent local times, by the offset before the clock change."""
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
        "local_from": from_micros(tally.start).replace(tzinfo=None).isoformat(" ", "minutes"),
        "local_until": from_micros(tally.end).replace(tzinfo=None).isoformat(" ", "minutes"),
        "rows": tally.rows,
        "rejected": tally.rejected,
    }
    return Finding(tally.kind, from_micros(at), from_micros(at), detail)


#: Moves a time at a clock change into the hour before it.
_BEFORE = pd.Timedelta(microseconds=1)


@dataclass
class TimezoneLocalizer:
    """Localizes the timestamps of one file to UTC, block by block.

    The order of an asset's rows decides which of its two instants a repeated local time is. As these rows may
    be in several blocks, they are pending until `resolve_pending`.
    """

    form: TimestampFormat
    ambiguous: Ambiguous
    nonexistent: Nonexistent = Nonexistent.REJECT
    #: Whether timestamps are the ends of intervals.
    ends: bool = False
    #: Counts of rows at clock changes.
    changes: ClockChanges = field(default_factory=ClockChanges)
    _pending: list[pd.DataFrame] = field(default_factory=list)
    #: First and last instant of each asset in the order of the file; descending rows end earlier.
    _ends: dict[str, tuple[pd.Timestamp, pd.Timestamp]] = field(default_factory=dict)

    def localize(
        self, column: pd.Series[Any], asset_ids: pd.Series[str], zones: pd.Series[str]
    ) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Instants in UTC, and why a row is rejected; a row with neither is pending."""
        instants = timestamps.parse(column, self.form)
        utc = instants.wall.dt.tz_localize("UTC").copy()
        reason = instants.reason
        local = resolve_zone_names(instants, zones, utc, utc, reason)
        for zone, wall in instants.wall[local].groupby(zones[local], sort=False):
            earliest, latest = localize(wall, str(zone), ends=self.ends)
            bounds = localize(wall, str(zone)) if self.ends else (earliest, latest)
            self.changes.note(wall, asset_ids, str(zone), *bounds)
            apply_fold_suffixes(instants.suffixes, earliest, latest, reason)
            utc.loc[wall.index] = self._choose(earliest, latest)
            nonexistent = wall.index[earliest.isna() & (reason[wall.index] == "")]
            if self.nonexistent is Nonexistent.SHIFT_FORWARD:
                utc.loc[nonexistent] = shift_forward(wall[nonexistent], str(zone))
            else:
                reason.loc[nonexistent] = NONEXISTENT
                self.changes.note_rejected(asset_ids[nonexistent], wall[nonexistent])
            repeated = wall.index[earliest.notna() & (earliest != latest)]
            if self.ambiguous is Ambiguous.REJECT:
                reason.loc[repeated] = AMBIGUOUS
                self.changes.note_rejected(asset_ids[repeated], wall[repeated])
            elif self.ambiguous is Ambiguous.INFER and len(repeated):
                pending = pd.DataFrame(
                    {"asset_id": asset_ids, "wall": wall, "earliest": earliest, "latest": latest}
                )
                pending = pending.loc[repeated]
                self._pending.append(
                    pending.assign(change=next_change(pending["earliest"] - _BEFORE, str(zone)))
                )
        self._note_ends(utc, asset_ids)
        return utc, reason

    def resolve_pending(self) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Instants in UTC, or why they are rejected, of the pending rows."""
        if not self._pending:
            return pd.Series(dtype="datetime64[us, UTC]"), pd.Series(dtype=object)
        pending = pd.concat(self._pending)
        self._pending.clear()
        descending = {asset for asset, (first, last) in self._ends.items() if last < first}
        order = infer_order(pending, descending, ends=self.ends)
        utc = pending["earliest"].where(order == "earliest", pending["latest"].where(order == "latest"))
        if self.ends:  # without both passes, the end of the hour is the end of the second
            at_change = pending["earliest"].astype("int64") == pending["change"]
            utc = utc.where(utc.notna() | ~at_change, pending["latest"])
        unresolved = utc.isna()
        self.changes.note_rejected(pending.loc[unresolved, "asset_id"], pending.loc[unresolved, "wall"])
        return utc, pd.Series("", index=pending.index, dtype=object).mask(unresolved, AMBIGUOUS)

    def _choose(self, earliest: pd.Series[Any], latest: pd.Series[Any]) -> pd.Series[Any]:
        if self.ambiguous is Ambiguous.EARLIEST:
            return earliest
        return latest if self.ambiguous is Ambiguous.LATEST else earliest.where(earliest == latest)

    def _note_ends(self, utc: pd.Series[Any], asset_ids: pd.Series[str]) -> None:
        instants = utc.dropna()
        ends = instants.groupby(asset_ids[instants.index], sort=False).agg(["first", "last"])
        for asset, first, last in ends.itertuples(name=None):
            self._ends[asset] = (self._ends.get(asset, (first, last))[0], last)
