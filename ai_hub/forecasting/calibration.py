"""Rolling conformal calibration: quantiles are moved by how far they were off lately, as known at issue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ai_hub.forecasting.issues import HOUR, Durations, Flags, Floats, Ints, IssueRows, Strings

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Actual values of so many days before an issue count.
WINDOW: Final = timedelta(days=28)
#: First hours of the groups of leads whose quantiles are moved alike.
BUCKETS: Final = (0, 6, 12, 24, 36, 48, 72, 120)
#: Level of the quantile that stays where it is.
MEDIAN: Final = 0.5
#: Part of the row's level that is added to the width of its band where errors are measured in it.
_WIDTH_FLOOR: Final = 0.05
#: An asset's own offsets count like those of all assets when it has so many issues.
_OWN_ISSUES: Final = 7


def buckets_of(leads: int, step: timedelta) -> Ints:
    """(leads,): which of `BUCKETS` each lead is in."""
    hours = np.arange(leads) * (step / HOUR)
    return np.searchsorted(BUCKETS, hours, side="right") - 1


def bucket_names(leads: int, step: timedelta) -> list[str]:
    """Names of the buckets that so many leads have, such as `6-12 h`."""
    ends = [*BUCKETS[1:], 168]
    count = int(buckets_of(leads, step)[-1]) + 1
    ends[count - 1] = min(ends[count - 1], round(leads * step / HOUR))
    return [f"{first}-{end} h" for first, end in zip(BUCKETS[:count], ends[:count], strict=True)]


def widths(quantiles: Floats, levels: Floats) -> Floats:
    """(n, leads): in what errors of a row's quantiles are measured."""
    return quantiles[..., -1] - quantiles[..., 0] + _WIDTH_FLOOR * levels[:, None]


@dataclass(frozen=True)
class Calibration:
    """By how many widths quantiles are moved."""

    #: (buckets, levels): of assets without their own
    pooled: Floats
    #: by asset, (buckets, levels)
    by_asset: Mapping[str, Floats]

    def apply(self, assets: Strings, quantiles: Floats, levels: Floats, step: timedelta) -> Floats:
        """The quantiles (n, leads, levels) of rows, moved and in order."""
        bucket = buckets_of(quantiles.shape[1], step)
        names, index = np.unique(assets, return_inverse=True)
        table = np.stack([self.by_asset.get(str(name), self.pooled) for name in names])
        offsets = table[index][:, bucket]
        return np.sort(quantiles + offsets * widths(quantiles, levels)[..., None], axis=-1)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "pooled": self.pooled.tolist(),
            "by_asset": {name: each.tolist() for name, each in self.by_asset.items()},
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Calibration:
        """What `as_json` gave."""
        return cls(
            np.array(found["pooled"]), {name: np.array(each) for name, each in found["by_asset"].items()}
        )

    @classmethod
    def none(cls, leads: int, step: timedelta, levels: int) -> Calibration:
        """One that moves nothing."""
        return cls(np.zeros((int(buckets_of(leads, step)[-1]) + 1, levels)), {})


@dataclass(frozen=True)
class PastForecasts:
    """Uncalibrated quantiles of issues that the model was not fitted to, with what came of them."""

    rows: IssueRows
    #: (n, leads, levels)
    quantiles: Floats
    levels: tuple[float, ...]
    #: (n,): level of each row, see `DayAheadModel.levels`
    row_levels: Floats
    #: (n,): whether it was forecast from the wind
    by_wind: Flags
    #: (n,): how long after its end the value of a step becomes known
    delay: Durations

    def calibration(self, at: np.datetime64, by_wind: Flags | None = None) -> Calibration:
        """The calibration of an issue at `at`, from what was known then of the four weeks before.

        Args:
            at: the time of issue.
            by_wind: (n,), whether the model that is calibrated forecasts a row's asset from the wind; None:
                as it was. Errors of rows that were forecast otherwise count for all assets together alone.
        """
        actual = self.rows.actual
        if actual is None:
            raise ValueError("there are no actual values")
        window = np.timedelta64(WINDOW)
        latest = self.rows.lateness(self.delay).astype(np.int64).max(initial=0)
        reach = window + np.timedelta64(self.rows.step) * self.rows.leads + np.timedelta64(int(latest), "us")
        near = (self.rows.issued_at < at) & (self.rows.issued_at >= at - reach)
        index = np.flatnonzero(near)
        if not index.size:
            return Calibration.none(self.rows.leads, self.rows.step, len(self.levels))
        index = index[np.argsort(self.rows.assets[index], kind="stable")]
        known_at = self.rows.take(index).known_at(self.delay[index])
        counted = (known_at <= at) & (known_at > at - window)
        quantiles = self.quantiles[index]
        width = widths(quantiles, self.row_levels[index])[..., None]
        # bands of a meter that is always zero have no width
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = (actual[index, :, None] - quantiles) / width
        errors = np.where(counted[..., None] & np.isfinite(errors), errors, np.nan)
        # moved by errors of a few weeks, the median would err more
        errors[..., np.array(self.levels) == MEDIAN] = np.nan
        alike = np.ones(len(index), bool) if by_wind is None else (by_wind == self.by_wind)[index]
        return self._calibration(self.rows.assets[index], errors, alike)

    def _calibration(self, assets: Strings, errors: Floats, alike: Flags) -> Calibration:
        bucket = buckets_of(self.rows.leads, self.rows.step)
        count = int(bucket[-1]) + 1
        pooled = np.zeros((count, len(self.levels)))
        names, first, rows = np.unique(assets, return_index=True, return_counts=True)
        own = np.zeros((len(names), count, len(self.levels)))
        # assets in lines, their issues beside each other, NaN where one has fewer
        place = np.arange(len(assets)) - np.repeat(first, rows)
        line = np.repeat(np.arange(len(names)), rows)
        for each in range(count):
            part = errors[:, bucket == each]
            pooled[each] = _quantiles(part.reshape(1, -1, len(self.levels)), self.levels)[0]
            table = np.full((len(names), rows.max(), *part.shape[1:]), np.nan)
            table[line, place] = np.where(alike[:, None, None], part, np.nan)
            issues = (~np.isnan(table[..., 0])).any(axis=2).sum(axis=1)
            weight = (issues / (issues + _OWN_ISSUES))[:, None]
            found = _quantiles(table.reshape(len(names), -1, len(self.levels)), self.levels)
            own[:, each] = weight * found + (1 - weight) * pooled[each]
        return Calibration(pooled, {str(name): each for name, each in zip(names, own, strict=True)})


def _quantiles(errors: Floats, levels: Sequence[float]) -> Floats:
    """(m, levels): of errors (m, k, levels), level by level; 0 where all are NaN.

    Of n errors that of rank (n + 1) * level: as many of the next errors are below it, on average.
    """
    ordered = np.sort(errors, axis=1)  # NaN come last
    count = (~np.isnan(errors)).sum(axis=1)
    rank = np.empty(count.shape, np.int64)
    for position, each in enumerate(levels):
        exact = (count[:, position] + 1) * each
        rank[:, position] = np.ceil(exact) if each >= MEDIAN else np.floor(exact)
    rank = np.clip(rank, 1, np.maximum(count, 1)) - 1
    found = np.take_along_axis(ordered, rank[:, None, :], axis=1)[:, 0]
    return np.where(count > 0, found, 0.0)
