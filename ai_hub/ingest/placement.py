"""Give every row of a file its instant, also where the clock went back between rows far apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ai_hub.ingest import timestamps
from ai_hub.ingest.clock_changes import ClockChanges, shift_forward
from ai_hub.ingest.terms import Ambiguous, Nonexistent
from ai_hub.ingest.timestamps import TimestampFormat
from ai_hub.ingest.zones import localize, next_change

#: So that a time at a clock change is in the hour before it.
_BEFORE = pd.Timedelta(microseconds=1)


@dataclass
class TimePlacer:
    """Places the rows of one file, block by block.

    A local time that occurred twice can only be told by the order of all such rows of its asset, which may be
    in different blocks: those few rows are held back until `settle`.
    """

    form: TimestampFormat
    ambiguous: Ambiguous
    nonexistent: Nonexistent = Nonexistent.REJECT
    #: Whether timestamps are the ends of intervals.
    ends: bool = False
    #: What the rows placed so far show of clock changes.
    changes: ClockChanges = field(default_factory=ClockChanges)
    _held: list[pd.DataFrame] = field(default_factory=list)
    #: First and last instant seen of each asset, which tell whether its rows run from new to old.
    _ends: dict[str, tuple[pd.Timestamp, pd.Timestamp]] = field(default_factory=dict)

    def place(
        self, column: pd.Series[Any], asset_ids: pd.Series[str], zones: pd.Series[str]
    ) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Instants and reasons by row; a row with neither is held back."""
        instants = timestamps.parse(column, self.form)
        utc = instants.wall.dt.tz_localize("UTC").copy()
        reason = instants.reason
        local = timestamps.unnamed(instants, zones, utc, utc, reason)
        for zone, wall in instants.wall[local].groupby(zones[local], sort=False):
            earliest, latest = localize(wall, str(zone), ends=self.ends)
            counted = localize(wall, str(zone)) if self.ends else (earliest, latest)
            self.changes.note(wall, asset_ids, str(zone), *counted)
            timestamps.choose_turn(instants.marks, earliest, latest, reason)
            utc.loc[wall.index] = self._choose(earliest, latest)
            absent = wall.index[earliest.isna() & (reason[wall.index] == "")]
            if self.nonexistent is Nonexistent.SHIFT_FORWARD:
                utc.loc[absent] = shift_forward(wall[absent], str(zone))
            else:
                reason.loc[absent] = timestamps.NONEXISTENT
                self.changes.note_rejected(asset_ids[absent], wall[absent])
            twice = wall.index[earliest.notna() & (earliest != latest)]
            if self.ambiguous is Ambiguous.REJECT:
                reason.loc[twice] = timestamps.AMBIGUOUS
                self.changes.note_rejected(asset_ids[twice], wall[twice])
            elif self.ambiguous is Ambiguous.INFER and len(twice):
                held = pd.DataFrame(
                    {"asset_id": asset_ids, "wall": wall, "earliest": earliest, "latest": latest}
                )
                held = held.loc[twice]
                self._held.append(held.assign(change=next_change(held["earliest"] - _BEFORE, str(zone))))
        self._note_ends(utc, asset_ids)
        return utc, reason

    def settle(self) -> tuple[pd.Series[Any], pd.Series[str]]:
        """Instants and reasons of the rows held back; every one of them gets one or the other."""
        if not self._held:
            return pd.Series(dtype="datetime64[us, UTC]"), pd.Series(dtype=object)
        held = pd.concat(self._held)
        self._held.clear()
        descending = {asset for asset, (first, last) in self._ends.items() if last < first}
        order = timestamps.infer_order(held, descending, ends=self.ends)
        utc = held["earliest"].where(order == "earliest", held["latest"].where(order == "latest"))
        if self.ends:  # the end of the hour, which comes once after it where it does not come twice
            at_change = held["earliest"].astype("int64") == held["change"]
            utc = utc.where(utc.notna() | ~at_change, held["latest"])
        untold = utc.isna()
        self.changes.note_rejected(held.loc[untold, "asset_id"], held.loc[untold, "wall"])
        return utc, pd.Series("", index=held.index, dtype=object).mask(untold, timestamps.AMBIGUOUS)

    def _choose(self, earliest: pd.Series[Any], latest: pd.Series[Any]) -> pd.Series[Any]:
        if self.ambiguous is Ambiguous.EARLIEST:
            return earliest
        return latest if self.ambiguous is Ambiguous.LATEST else earliest.where(earliest == latest)

    def _note_ends(self, utc: pd.Series[Any], asset_ids: pd.Series[str]) -> None:
        known = utc.dropna()
        ends = known.groupby(asset_ids[known.index], sort=False).agg(["first", "last"])
        for asset, first, last in ends.itertuples(name=None):
            self._ends[asset] = (self._ends.get(asset, (first, last))[0], last)
