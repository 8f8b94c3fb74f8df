"""Normalization of readings to the unit of their asset, with the interval that each covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest.options import Reading, Stamps
from ai_hub.ingest.units import check_unit, conversion, is_amount, is_compatible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_hub.ingest.assets import Asset, AssetCache
    from ai_hub.ingest.options import Options

#: Number of consecutive equal steps that make a cadence; fewer may be gaps of equal length.
STEADY = 4
#: Usual intervals of meters, in seconds: a single step of such a length is an interval.
USUAL = (60, 300, 360, 600, 720, 900, 1200, 1800, 3600)
#: Readings per asset that are carried over to the next block: enough for a steady stretch.
_RECENT_ROWS = STEADY + 1
_REGULAR = 2

Seconds = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class IntervalInference:
    """Infers the interval that each reading of a file covers from the steps between readings."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._recent = pd.DataFrame({"asset_id": pd.Series(dtype=object), "at": pd.Series(dtype="int64")})
        #: Last inferred interval of each asset, in seconds.
        self.latest: dict[str, int] = {}
        #: Assets with a steady stretch.
        self.steady: set[str] = set()

    def infer(self, asset_ids: pd.Series[str], times: pd.Series[Any]) -> tuple[Seconds, Flags]:
        """Infer the intervals of a block.

        Returns the seconds of each row (NaN: unknown), and whether its step is part of a steady stretch.
        """
        names = asset_ids.unique()
        recent = self._recent[self._recent["asset_id"].isin(names)]
        block = pd.DataFrame({"asset_id": asset_ids.to_numpy(), "at": times.astype("int64").to_numpy()})
        view = pd.concat([recent, block], ignore_index=True)
        codes, index = pd.factorize(view["asset_id"])
        order = np.lexsort((view["at"], codes))
        steps = _Steps(codes[order], view["at"].to_numpy()[order])
        inferred, own = steps.intervals(self._stamps)
        intervals, steady = np.empty(len(view)), np.empty(len(view), dtype=bool)
        intervals[order], steady[order] = inferred, own
        intervals, steady = intervals[len(recent) :], steady[len(recent) :]
        self._keep_latest(block["asset_id"], intervals, index[np.unique(steps.steady_codes)])
        fallback = block["asset_id"].map(self.latest).astype("float64").to_numpy()
        self._keep_recent(view, names)
        return np.where(np.isnan(intervals), fallback, intervals), steady

    def _keep_latest(self, asset_ids: pd.Series[str], intervals: Seconds, steady: Iterable[str]) -> None:
        last = pd.Series(intervals).groupby(asset_ids.to_numpy()).last().dropna()
        self.latest |= {str(asset): int(seconds) for asset, seconds in last.items()}
        self.steady |= set(steady)

    def _keep_recent(self, view: pd.DataFrame, names: npt.NDArray[Any]) -> None:
        """Keep the readings next to the following block: the newest, or the oldest of a descending file."""
        grouped = view.groupby("asset_id", sort=False)["at"]
        backwards = grouped.transform("last") < grouped.transform("first")
        ranked = view.assign(rank=view["at"].where(~backwards, -view["at"])).drop_duplicates(
            ["asset_id", "at"]
        )
        nearest = ranked.sort_values("rank").groupby("asset_id", sort=False).tail(_RECENT_ROWS)
        others = self._recent[~self._recent["asset_id"].isin(names)]
        # in the order of the file, so that its direction is preserved
        self._recent = pd.concat([others, nearest.sort_values("rank")[["asset_id", "at"]]], ignore_index=True)


class _Steps:
    """Steps of several series, concatenated, each in order of time."""

    def __init__(self, codes: npt.NDArray[np.intp], at: npt.NDArray[np.int64]) -> None:
        is_first = np.ones(len(at), dtype=bool)
        is_first[1:] = (codes[1:] != codes[:-1]) | (at[1:] != at[:-1])
        self._position = np.cumsum(is_first) - 1
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
        """Seconds of each reading (its neighbours' where its step is a gap), and whether it is steady."""
        own, steady = self._interval, self._steady
        if stamps is Stamps.END:
            before = np.append(-1, self._codes[:-1]) == self._codes
            own = np.where(before, np.append(np.nan, own[:-1]), np.nan)
            steady = before & np.append(False, steady[:-1])
        grouped = pd.Series(own).groupby(self._codes)
        filled = grouped.ffill().fillna(grouped.bfill()).to_numpy()
        return filled[self._position], steady[self._position]


NO_INTERVAL = (
    "the interval that the reading covers cannot be told: say it with --interval 15m (or as long as it is),"
    " or `ai-hub asset add --interval`"
)
NO_INSTANT = (
    "the row has an interval, and a register is read at an instant:"
    " say with --stamps start or end which it is"
)
OVERLAP = "readings are nearer to each other than the interval that they cover (see --interval)"


class ReadingNormalizer:
    """Sets unit and interval of readings by the options, their assets and the file, in this order."""

    def __init__(self, assets: AssetCache, options: Options) -> None:
        self._assets = assets
        self._options = options
        self._intervals = IntervalInference(options.stamps)
        #: Inferred intervals of assets that had none, in seconds.
        self.filled: dict[str, int] = {}

    def conflict(self, asset: Asset) -> str:
        """Why the options contradict the asset, or an empty text."""
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
        if not is_compatible(asset.unit or unit, reading or asset.reading):
            return f"{asset.unit or unit} is not a unit of {reading or asset.reading}"
        return self._register_conflict(asset)

    def _register_conflict(self, asset: Asset) -> str:
        """Why the options of registers contradict the asset, or an empty text."""
        is_register = (self._options.reading or asset.reading) is Reading.REGISTER
        if is_register and asset.reading is None and self._assets.has_amounts(asset.asset_id):
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
        """Normalize rows in place: value, interval and timestamp (the start of the interval).

        Args:
            rows: `asset_id`, `timestamp` in UTC, `value`, `unit` (or empty), `interval_seconds` (or NA).
            is_last: Whether the file ends with these rows; then no row is pending.

        Returns:
            By row, why it is rejected (or empty), and whether its interval is pending until later rows.
        """
        self._fill_assets(rows)
        reasons = self._convert(rows)
        inferred, steady = self._intervals.infer(rows["asset_id"], rows["timestamp"])
        by_id = self._assets.get(rows["asset_id"].unique())
        default = rows["asset_id"].map({name: asset.interval_seconds for name, asset in by_id.items()})
        registered = default.astype("float64").to_numpy()
        own = rows["interval_seconds"].astype("float64").to_numpy()
        registers = rows["asset_id"].isin(self._assets.registers(by_id)).to_numpy()
        reasons = reasons.where(~registers | (reasons != ""), self._move_registers(rows, registers))
        if (option := self._options.interval) is not None:
            own = np.where(np.isnan(own), option.total_seconds(), own)
            nearer = steady & (inferred < own - 1) & (reasons == "").to_numpy() & ~registers
            reasons = reasons.mask(pd.Series(nearer, index=rows.index), OVERLAP)
        # the interval of a steady file overrides the registered one: the meter may have changed
        by_file = rows["asset_id"].isin(self._intervals.steady).to_numpy() | np.isnan(registered)
        seconds = np.where(by_file & ~np.isnan(inferred), inferred, registered)
        seconds = np.where(np.isnan(own), seconds, own)
        amounts = {name: bool(is_amount(asset.unit, asset.reading)) for name, asset in by_id.items()}
        needed = rows["asset_id"].map(amounts).to_numpy(dtype=bool) | (self._options.stamps is Stamps.END)
        seconds[registers] = np.nan
        waiting = pd.Series(needed & ~registers & np.isnan(seconds), index=rows.index) & (reasons == "")
        rows["interval_seconds"] = pd.Series(seconds, index=rows.index).round().astype("Int64")
        if is_last:
            reasons = reasons.mask(waiting, NO_INTERVAL)
            waiting[:] = False
        self._fill_intervals(by_id)
        if self._options.stamps is Stamps.END:
            length = pd.to_timedelta(rows["interval_seconds"].astype("float64"), unit="s")
            shifted = rows["timestamp"] - length.astype("timedelta64[us]")
            rows["timestamp"] = rows["timestamp"].where(waiting | registers | (reasons != ""), shifted)
        return reasons, waiting

    def _move_registers(self, rows: pd.DataFrame, registers: npt.NDArray[np.bool_]) -> pd.Series[str]:
        """Move readings of registers with an interval to its end if the options say so; returns reasons."""
        spans = pd.Series(registers, index=rows.index) & (rows["interval_seconds"].fillna(0) > 0)
        if self._options.form.stamps is None:
            return pd.Series("", index=rows.index, dtype=object).mask(spans, NO_INSTANT)
        if self._options.form.stamps is Stamps.END:
            length = pd.to_timedelta(rows["interval_seconds"].astype("float64"), unit="s")
            ends = rows["timestamp"] + length.astype("timedelta64[us]")
            rows["timestamp"] = rows["timestamp"].mask(spans, ends)
        return pd.Series("", index=rows.index, dtype=object)

    def _fill_assets(self, rows: pd.DataFrame) -> None:
        """Set an asset's missing unit, reading and digits from the options or its first row."""
        first = rows["unit"].mask(rows["unit"] == "").groupby(rows["asset_id"], sort=False).first()
        for asset_id, asset in self._assets.get(rows["asset_id"].unique()).items():
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
            self._assets.fill_in(asset_id, changes)

    def _convert(self, rows: pd.DataFrame) -> pd.Series[str]:
        """Convert values to the unit of their asset; returns why a row is rejected."""
        reasons = pd.Series("", index=rows.index, dtype=object)
        units = rows["unit"].mask(rows["unit"] == "", self._options.unit or "")
        for (asset_name, unit_name), group in rows.groupby([rows["asset_id"], units], sort=False):
            asset_id, unit = str(asset_name), str(unit_name)
            asset = self._assets.get([asset_id])[asset_id]
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

    def _fill_intervals(self, by_id: dict[str, Asset]) -> None:
        """Set an asset's missing interval from the options, or from a steady stretch of the file."""
        option = self._options.interval
        for asset_id, asset in by_id.items():
            if asset.interval_seconds is not None:
                continue
            if option is not None:
                self._assets.fill_in(asset_id, {"interval_seconds": round(option.total_seconds())})
            elif asset_id in self._intervals.steady:
                self.filled[asset_id] = self._intervals.latest[asset_id]
                self._assets.fill_in(asset_id, {"interval_seconds": self.filled[asset_id]})
