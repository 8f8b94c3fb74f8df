"""Paired comparison of two versions on the same targets: a test on the means of weeks.

Errors of hours near each other are alike, so that a test on hours finds differences where there are none. The
test of Diebold and Mariano (1995) with the correction of Harvey, Leybourne and Newbold (1997) is made on the
mean difference of each week, with the covariance of neighbouring weeks.
"""

from __future__ import annotations

from collections.abc import Mapping  # of a dataclass
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import stats

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from ai_hub.forecasting.issues import Flags, Floats, Ints

#: Of the interval; its lower end is above zero where the one-sided test has p < 0.01.
CONFIDENCE: Final = 0.98
#: Of fewer weeks no variance is known.
FEWEST_WEEKS: Final = 4
#: Weeks of which a smaller part of the targets can be compared do not count.
LEAST_SHARE: Final = 0.5
#: A group's gain is at least this, however small production's errors are.
_LOWEST_GAIN: Final = -10.0
#: Differences of so many weeks in a row belong together, that of the week itself included.
_WEEKS_TOGETHER: Final = 2


@dataclass(frozen=True)
class PairedComparison:
    """How much less a challenger errs than the version in production; shares are of production's MAE."""

    #: weeks that count, and targets in them
    weeks: int
    targets: int
    #: means of the weeks' MAE
    production_mae: float
    challenger_mae: float
    #: by which part the challenger's MAE is below; negative: above
    gain: float
    #: of the gain, with `CONFIDENCE`
    interval: tuple[float, float]
    #: of the test that the challenger does not err less, one-sided
    statistic: float
    p: float
    #: by the name of a group of targets, the gain
    groups: Mapping[str, float]


def known_shares(week: Ints, is_known: Flags) -> Floats:
    """By number of week, which part of its targets is known; 0 of a week without any.

    Args:
        week: (m,), number of the week of each target there is.
        is_known: (m,), whether it can be compared.
    """
    there = np.bincount(week)
    known = np.bincount(week[is_known], minlength=len(there))
    return np.asarray(known / np.maximum(there, 1), np.float64)


def compare(
    week: Ints, production: Floats, challenger: Floats, groups: Mapping[str, Flags] | None = None
) -> PairedComparison:
    """Compare absolute errors over the same targets.

    Args:
        week: (m,), number of each target's week.
        production: (m,), absolute errors of the version in production; NaN where it has none.
        challenger: (m,), those of the challenger.
        groups: by name, (m,), which targets belong to it.

    Raises:
        BadInputError: there are fewer than `FEWEST_WEEKS` weeks that count, or production never errs.
    """
    known = np.isfinite(production) & np.isfinite(challenger)
    counts = known_shares(week, known) >= LEAST_SHARE
    weeks = np.flatnonzero(counts)
    if len(weeks) < FEWEST_WEEKS:
        raise BadInputError(
            f"{len(weeks)} weeks have enough targets to compare; it takes {FEWEST_WEEKS}.",
            hint="Compare more --weeks, or ingest what was measured.",
        )
    kept = known & counts[week]
    number = np.searchsorted(weeks, week[kept])
    production, challenger = production[kept], challenger[kept]
    base = _means(number, production, len(weeks))
    difference = base - _means(number, challenger, len(weeks))
    if not base.mean() > 0:
        raise BadInputError(
            "The version in production makes no errors, so nothing can be better.",
            hint="Compare weeks in which something was measured that it could not know.",
        )
    statistic, error = _diebold_mariano(difference, weeks)
    degrees = len(weeks) - 1
    half = stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * error
    mean, scale = float(difference.mean()), float(base.mean())
    return PairedComparison(
        weeks=len(weeks),
        targets=int(kept.sum()),
        production_mae=scale,
        challenger_mae=scale - mean,
        gain=mean / scale,
        interval=((mean - half) / scale, (mean + half) / scale),
        statistic=statistic,
        p=float(stats.t.sf(statistic, degrees)),
        groups={
            name: _gain(production[each[kept]], challenger[each[kept]])
            for name, each in (groups or {}).items()
            if each[kept].any()
        },
    )


def _means(number: Ints, values: Floats, weeks: int) -> Floats:
    return np.asarray(np.bincount(number, values, weeks) / np.bincount(number, minlength=weeks), np.float64)


def _diebold_mariano(difference: Floats, weeks: Ints) -> tuple[float, float]:
    """The corrected statistic of the mean differences of weeks, and the standard error it goes with.

    Covariances are those of weeks that lie next to each other: of two with a hole between them none counts.
    """
    n, h = len(difference), _WEEKS_TOGETHER
    mean = difference.mean()
    centred = np.zeros(weeks[-1] - weeks[0] + 1)
    centred[weeks - weeks[0]] = difference - mean
    covariances = [float(centred[lag:] @ centred[: len(centred) - lag]) / n for lag in range(h)]
    # weeks that alternate would seem to know more than independent ones do
    variance = max(covariances[0], covariances[0] + 2 * sum(covariances[1:]))
    correction = (n + 1 - 2 * h + h * (h - 1) / n) / n
    error = (variance / n / correction) ** 0.5
    if error == 0:
        return (float("inf") if mean > 0 else 0.0), 0.0
    return float(mean / error), float(error)


def _gain(production: Floats, challenger: Floats) -> float:
    """By which part the challenger's MAE is below production's."""
    ours, theirs = float(challenger.sum()), float(production.sum())
    if theirs == 0:
        return 0.0 if ours == 0 else _LOWEST_GAIN
    return max(1 - ours / theirs, _LOWEST_GAIN)
