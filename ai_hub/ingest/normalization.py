"""Readings in the unit of their asset, each with the interval it covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest.enums import Reading, Stamps
from ai_hub.ingest.units import agrees, check_unit, conversion, is_amount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_hub.ingest.assets import Asset, AssetCache
    from ai_hub.ingest.options import Options

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


NO_INTERVAL = (
    "the interval that the reading covers cannot be told: say it with --interval 15m (or as long as it is),"
    " or `ai-hub asset add --interval`"
)
NO_INSTANT = (
    "the row has an interval, and a register is read at an instant:"
    " say with --stamps start or end which it is"
)
OVERLAP = "readings are nearer to each other than the interval that they cover (see --interval)"


class Meaning:
    """Applies what the options, the assets and the file itself say of its readings."""

    def __init__(self, roster: AssetCache, options: Options) -> None:
        self._roster = roster
        self._options = options
        self._intervals = Intervals(options.stamps)
        #: Intervals of assets that did not say theirs, as the steps of the file told them, in seconds.
        self.filled: dict[str, int] = {}

    def conflict(self, asset: Asset) -> str:
        """Why what the options say does not fit the asset; empty where it does."""
        unit, reading = self._options.unit, self._options.reading
        if unit is not None:
            try:
                unit = check_unit(asset.kind, unit)
            except BadInputError as error:
                return error.message
            if asset.unit is not None and conversion(unit, asset.unit) is None:
                return f"asset {asset.asset_id} is registered in {asset.unit}, not {unit}"
        if reading is not None and asset.reading not in {None, reading}:
            return f"readings of asset {asset.asset_id} are registered as {asset.reading}, not {reading}"
        if not agrees(asset.unit or unit, reading or asset.reading):
            return f"{asset.unit or unit} is not a unit of {reading or asset.reading}"
        return self._register_conflict(asset)

    def _register_conflict(self, asset: Asset) -> str:
        """Why what the options say of registers does not fit the asset; empty where it does."""
        is_register = (self._options.reading or asset.reading) is Reading.REGISTER
        if is_register and asset.reading is None and self._roster.has_amounts(asset.asset_id):
            return (
                f"asset {asset.asset_id} has readings that were not stored as a register's:"
                " `ai-hub asset add --reading register` says what they are"
            )
        digits = self._options.digits
        if digits is not None and not is_register:
            return "--digits are those of a register: say --reading register"
        if digits is not None and asset.register_digits not in {None, digits}:
            return f"the register {asset.asset_id} is registered with {asset.register_digits} digits"
        return ""

    def apply(self, rows: pd.DataFrame, *, is_last: bool) -> tuple[pd.Series[str], pd.Series[bool]]:
        """Convert `rows` in place; the reasons of those that cannot be, and which wait for more of the file.

        `rows` has `asset_id`, `timestamp`, `value`, `unit` (empty: not said) and `interval_seconds` (NA: not
        said). With `is_last` no row waits.
        """
        self._adopt(rows)
        reasons = self._convert(rows)
        told, steady = self._intervals.tell(rows["asset_id"], rows["timestamp"])
        known = self._roster.look_up(rows["asset_id"].unique())
        default = rows["asset_id"].map({name: asset.interval_seconds for name, asset in known.items()})
        usual = default.astype("float64").to_numpy()
        own = rows["interval_seconds"].astype("float64").to_numpy()
        registers = rows["asset_id"].isin(self._roster.registers(known)).to_numpy()
        reasons = reasons.where(~registers | (reasons != ""), self._place_registers(rows, registers))
        if (given := self._options.interval) is not None:
            own = np.where(np.isnan(own), given.total_seconds(), own)
            nearer = steady & (told < own - 1) & (reasons == "").to_numpy() & ~registers
            reasons = reasons.mask(pd.Series(nearer, index=rows.index), OVERLAP)
        # a steady file is right where the meter changed and its default is that of before
        by_file = rows["asset_id"].isin(self._intervals.steady).to_numpy() | np.isnan(usual)
        seconds = np.where(by_file & ~np.isnan(told), told, usual)
        seconds = np.where(np.isnan(own), seconds, own)
        amounts = {name: bool(is_amount(asset.unit, asset.reading)) for name, asset in known.items()}
        needed = rows["asset_id"].map(amounts).to_numpy(dtype=bool) | (self._options.stamps is Stamps.END)
        seconds[registers] = np.nan
        untold = pd.Series(needed & ~registers & np.isnan(seconds), index=rows.index) & (reasons == "")
        rows["interval_seconds"] = pd.Series(seconds, index=rows.index).round().astype("Int64")
        if is_last:
            reasons = reasons.mask(untold, NO_INTERVAL)
            untold[:] = False
        self._fill_intervals(known)
        if self._options.stamps is Stamps.END:
            length = pd.to_timedelta(rows["interval_seconds"].astype("float64"), unit="s")
            shifted = rows["timestamp"] - length.astype("timedelta64[us]")
            rows["timestamp"] = rows["timestamp"].where(untold | registers | (reasons != ""), shifted)
        return reasons, untold

    def _place_registers(self, rows: pd.DataFrame, registers: npt.NDArray[np.bool_]) -> pd.Series[str]:
        """Bring register readings of rows that have an interval to its end, where the options say so."""
        spans = pd.Series(registers, index=rows.index) & (rows["interval_seconds"].fillna(0) > 0)
        if self._options.form.stamps is None:
            return pd.Series("", index=rows.index, dtype=object).mask(spans, NO_INSTANT)
        if self._options.form.stamps is Stamps.END:
            length = pd.to_timedelta(rows["interval_seconds"].astype("float64"), unit="s")
            ends = rows["timestamp"] + length.astype("timedelta64[us]")
            rows["timestamp"] = rows["timestamp"].mask(spans, ends)
        return pd.Series("", index=rows.index, dtype=object)

    def _adopt(self, rows: pd.DataFrame) -> None:
        """Take over what an asset does not say: reading, and unit, from the options or its first row."""
        first = rows["unit"].mask(rows["unit"] == "").groupby(rows["asset_id"], sort=False).first()
        for asset_id, asset in self._roster.look_up(rows["asset_id"].unique()).items():
            changes: dict[str, object] = {}
            unit = self._options.unit or first.get(asset_id)
            if asset.unit is None and isinstance(unit, str):
                try:
                    changes["unit"] = check_unit(asset.kind, unit)
                except BadInputError:  # the rows are rejected with the reason
                    continue
            if asset.reading is None and self._options.reading is not None:
                changes["reading"] = self._options.reading
            if asset.register_digits is None and self._options.digits is not None:
                changes["register_digits"] = self._options.digits
            self._roster.adopt(asset_id, changes)

    def _convert(self, rows: pd.DataFrame) -> pd.Series[str]:
        reasons = pd.Series("", index=rows.index, dtype=object)
        given = rows["unit"].mask(rows["unit"] == "", self._options.unit or "")
        for (asset_name, given_unit), group in rows.groupby([rows["asset_id"], given], sort=False):
            asset_id, unit = str(asset_name), str(given_unit)
            asset = self._roster.look_up([asset_id])[asset_id]
            if unit in {"", asset.unit}:
                continue
            factor = conversion(unit, asset.unit) if asset.unit else None
            if factor is None:
                reasons[group.index] = (
                    f"unit {unit} does not convert to {asset.unit or 'one of ' + asset.kind}"
                )
            else:
                rows.loc[group.index, "value"] = group["value"] * factor[0] / factor[1]
        return reasons

    def _fill_intervals(self, known: dict[str, Asset]) -> None:
        """An asset without an interval takes that of the options, or of a steady stretch of the file."""
        given = self._options.interval
        for asset_id, asset in known.items():
            if asset.interval_seconds is not None:
                continue
            if given is not None:
                self._roster.adopt(asset_id, {"interval_seconds": round(given.total_seconds())})
            elif asset_id in self._intervals.steady:
                self.filled[asset_id] = self._intervals.learned[asset_id]
                self._roster.adopt(asset_id, {"interval_seconds": self.filled[asset_id]})
