"""How long the interval is that each reading of a file covers, told by the steps between its readings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ai_hub.ingest.terms import Stamps

if TYPE_CHECKING:
    from collections.abc import Iterable

#: So many equal steps in a row are a cadence; fewer may be gaps that happen to be equal.
STEADY = 4
#: Steps that meters have, in seconds: one of these tells the interval even where it is the only step.
USUAL = (60, 300, 360, 600, 720, 900, 1200, 1800, 3600)
#: Readings of each asset remembered from block to block: enough for a steady stretch.
_REMEMBERED = STEADY + 1
_REGULAR = 2

Seconds = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Intervals:
    """Tells the intervals of one file, block by block."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._known = pd.DataFrame({"asset_id": pd.Series(dtype=object), "at": pd.Series(dtype="int64")})
        #: Last interval told of each asset, in seconds.
        self.learned: dict[str, int] = {}
        #: Assets with a steady stretch.
        self.steady: set[str] = set()

    def tell(self, asset_ids: pd.Series[str], times: pd.Series[Any]) -> tuple[Seconds, Flags]:
        """Interval of each row in seconds, NaN where the file does not tell, and whether its own steps do."""
        names = asset_ids.unique()
        remembered = self._known[self._known["asset_id"].isin(names)]
        block = pd.DataFrame({"asset_id": asset_ids.to_numpy(), "at": times.astype("int64").to_numpy()})
        view = pd.concat([remembered, block], ignore_index=True)
        codes, index = pd.factorize(view["asset_id"])
        order = np.lexsort((view["at"], codes))
        steps = _Steps(codes[order], view["at"].to_numpy()[order])
        told, own = steps.intervals(self._stamps)
        found, steady = np.empty(len(view)), np.empty(len(view), dtype=bool)
        found[order], steady[order] = told, own
        found, steady = found[len(remembered) :], steady[len(remembered) :]
        self._learn(block["asset_id"], found, index[np.unique(steps.steady_codes)])
        fallback = block["asset_id"].map(self.learned).astype("float64").to_numpy()
        self._remember(view, names)
        return np.where(np.isnan(found), fallback, found), steady

    def _learn(self, asset_ids: pd.Series[str], found: Seconds, steady: Iterable[str]) -> None:
        last = pd.Series(found).groupby(asset_ids.to_numpy()).last().dropna()
        self.learned |= {str(asset): int(seconds) for asset, seconds in last.items()}
        self.steady |= set(steady)

    def _remember(self, view: pd.DataFrame, names: npt.NDArray[Any]) -> None:
        """The readings next to the following block: the newest, or the oldest where files run backwards."""
        grouped = view.groupby("asset_id", sort=False)["at"]
        backwards = grouped.transform("last") < grouped.transform("first")
        ranked = view.assign(rank=view["at"].where(~backwards, -view["at"])).drop_duplicates(
            ["asset_id", "at"]
        )
        kept = ranked.sort_values("rank").groupby("asset_id", sort=False).tail(_REMEMBERED)
        others = self._known[~self._known["asset_id"].isin(names)]
        # in the file's order, so that its direction stays known
        self._known = pd.concat([others, kept.sort_values("rank")[["asset_id", "at"]]], ignore_index=True)


class _Steps:
    """Steps of several series, one after the other, each in order of time."""

    def __init__(self, codes: npt.NDArray[np.intp], at: npt.NDArray[np.int64]) -> None:
        is_first = np.ones(len(at), dtype=bool)
        is_first[1:] = (codes[1:] != codes[:-1]) | (at[1:] != at[:-1])
        self._place = np.cumsum(is_first) - 1
        codes, at = codes[is_first], at[is_first]
        step = np.zeros(len(at), dtype=np.int64)
        step[:-1] = np.where(codes[1:] == codes[:-1], (at[1:] - at[:-1] + 500_000) // 1_000_000, 0)
        starts = np.ones(len(at), dtype=bool)
        starts[1:] = (step[1:] != step[:-1]) | (codes[1:] != codes[:-1])
        run = np.cumsum(starts) - 1
        length = np.bincount(run)[run]
        self._codes = codes
        self._steady = (length >= STEADY) & (step > 0)
        regular = (length >= _REGULAR) & (step > 0)
        count = np.bincount(codes, weights=step > 0)[codes]
        lone = (count == 1) & np.isin(step, USUAL)
        weak = regular & ~self._any(self._steady) | lone & ~self._any(regular)
        self._interval = np.where(self._steady | weak, step.astype(np.float64), np.nan)
        #: Series with a steady stretch.
        self.steady_codes = codes[self._steady]

    def _any(self, flags: Flags) -> Flags:
        """Whether any step of the same series has the flag."""
        return np.bincount(self._codes, weights=flags)[self._codes] > 0

    def intervals(self, stamps: Stamps) -> tuple[Seconds, Flags]:
        """Interval of each reading (of its neighbours where its own step is a gap); whether it is its own."""
        own, steady = self._interval, self._steady
        if stamps is Stamps.END:
            before = np.append(-1, self._codes[:-1]) == self._codes
            own = np.where(before, np.append(np.nan, own[:-1]), np.nan)
            steady = before & np.append(False, steady[:-1])
        grouped = pd.Series(own).groupby(self._codes)
        told = grouped.ffill().fillna(grouped.bfill()).to_numpy()
        return told[self._place], steady[self._place]
