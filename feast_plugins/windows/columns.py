"""Features of many rows at once, in columns: the values of the SQL way (statements.py), with the same bits.

A column is a series of hours without gaps, each a position. Ranges of many assets lie one behind the other,
each after the hours that it looks back to; what is computed across the end of a range is never used. States
merge oldest first, as stats_merge() does: a window of n hours is n steps over whole columns.

There is a case for each type of expression in declarations.py; `knows` tells of others, which are left to
SQL, as are values so large that the server might refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from feast_plugins.windows.declarations import (
    HOUR,
    READING,
    WEATHER,
    DegreeHours,
    Difference,
    Expression,
    Lag,
    Ratio,
    SameHour,
    Weather,
    Window,
    _OfColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from feast_plugins.windows.declarations import Declaration

    Floats = npt.NDArray[np.float64]

#: The states of a block of positions stay in a core's cache.
_BLOCK: Final = 8192
#: Sums of squares of values beyond it may overflow, of which the server has an opinion.
_LARGEST: Final = 1e100
#: Logarithm of a ratio beyond which it may be no double.
_LARGEST_RATIO: Final = 700
_LEAVES: Final = (Window, Lag, Weather, SameHour, DegreeHours)


class UndecidedError(Exception):
    """The server has to compute these rows: only it knows what becomes of their values."""


@dataclass(frozen=True)
class Series:
    """A column, an element a position: NaN, weight 0 and total -0.0 where nothing is known."""

    value: Floats
    least: Floats
    greatest: Floats
    #: the state {weight, sum, squares} of stats_merge()
    weight: Floats
    total: Floats
    squares: Floats
    readings: Floats


def knows(declaration: Declaration) -> bool:
    """Whether there is a case for each of its expressions and columns.

    There is none for rows with another step than an hour, for external series, whose hours each row sees as
    they were known in its own hour, nor for totals of groups.
    """
    leaves = [leaf for each in declaration.stored.values() for leaf in each.leaves()]
    kinds = {*map(type, declaration.stored.values()), *map(type, leaves)}
    return (
        declaration.step == HOUR
        and kinds <= {*_LEAVES, Difference, Ratio}
        and all(isinstance(leaf, _OfColumn) and leaf.column in {READING, *WEATHER} for leaf in leaves)
    )


def evaluate(
    declaration: Declaration, columns: Mapping[str, Series], rows: npt.NDArray[np.intp]
) -> dict[str, Floats]:
    """Stored features of the rows at these positions; NaN where one is empty.

    Args:
        declaration: one that `knows`.
        columns: by the name of the column; all have the same positions.
        rows: positions, each with all hours before it that the declaration looks back to.

    Raises:
        UndecidedError: a value is infinite, no number or very large.
    """
    stored = declaration.stored
    leaves = dict.fromkeys(leaf for each in stored.values() for leaf in each.leaves())
    found: dict[Expression, Floats] = {}
    with np.errstate(all="ignore"):  # of positions that are no rows
        for name, series in columns.items():
            _require_moderate(series)
            found |= _leaves(
                series,
                [leaf for leaf in leaves if isinstance(leaf, _OfColumn) and leaf.column == name],
                rows,
            )
        return {name: _value(each, found) for name, each in stored.items()}


def _require_moderate(series: Series) -> None:
    for each in (series.value, series.least, series.greatest, series.total):
        if np.any(np.abs(each) > _LARGEST):
            raise UndecidedError
    if np.isnan(series.total).any() or np.isnan(series.squares).any() or np.any(series.squares > _LARGEST**2):
        raise UndecidedError


def _value(of: Expression, leaves: Mapping[Expression, Floats]) -> Floats:
    if not isinstance(of, Difference | Ratio):
        return leaves[of]
    left, right = (leaves[leaf] for leaf in of.leaves())
    if isinstance(of, Difference):
        return left - right
    size = np.log(np.abs(left)) - np.log(np.abs(right))
    if np.any((np.abs(size) > _LARGEST_RATIO) & (left != 0) & (right != 0)):
        raise UndecidedError
    return np.where(right == 0, np.nan, np.where((left == 0) & ~np.isnan(right), 0.0, left / right))


def _leaves(
    series: Series, leaves: Sequence[_OfColumn], rows: npt.NDArray[np.intp]
) -> dict[Expression, Floats]:
    """Expressions over one column at these positions."""
    found: dict[Expression, Floats] = {}
    merged = _merged_states(series, leaves)
    for leaf in leaves:
        stride, length = _steps(leaf)
        # of the oldest hour that each row looks back to
        starts = rows - leaf.offsets()[1]
        if isinstance(leaf, Lag | Weather):
            found[leaf] = series.value[starts]
        elif isinstance(leaf, DegreeHours):
            degrees = leaf.base - series.value if leaf.direction == "heating" else series.value - leaf.base
            found[leaf] = _summed(np.maximum(degrees, 0), length)[starts]
        elif isinstance(leaf, Window | SameHour) and leaf.function in _COMBINED:
            column, combine = _COMBINED[leaf.function]
            found[leaf] = _combined(getattr(series, column), combine, stride, length)[starts]
        elif isinstance(leaf, Window | SameHour):
            found[leaf] = _of_state(leaf.function, *(each[starts] for each in merged[stride, length]))
    return found


def _steps(leaf: _OfColumn) -> tuple[int, int]:
    """Positions from one hour of an expression to the next, and how many hours it has."""
    nearest, farthest = leaf.offsets()
    stride = leaf.step if isinstance(leaf, SameHour) else 1
    return stride, (farthest - nearest) // stride + 1


def _of_state(function: str, weight: Floats, total: Floats, squares: Floats) -> Floats:
    """float8_avg, float8_stddev_samp, or the sum."""
    if function == "mean":
        return np.where(weight == 0, np.nan, total / weight)
    if function == "sum":
        return np.where(weight > 0, total, np.nan)
    return np.where(weight <= 1, np.nan, np.sqrt(squares / (weight - 1)))


def _merged_states(
    series: Series, leaves: Iterable[_OfColumn]
) -> dict[tuple[int, int], tuple[Floats, Floats, Floats]]:
    """By stride and length: the states merged from each position on."""
    lengths: dict[int, dict[int, bool]] = {}
    for leaf in leaves:
        if isinstance(leaf, Window | SameHour) and leaf.function not in _COMBINED:
            stride, length = _steps(leaf)
            of_stride = lengths.setdefault(stride, {})
            of_stride[length] = of_stride.get(length, False) or leaf.function == "std"
    size = len(series.value)
    found = {
        (stride, length): (np.empty(size), np.empty(size), np.empty(size))
        for stride, of_stride in lengths.items()
        for length in of_stride
    }
    for stride, of_stride in lengths.items():
        with_squares = max((length for length, is_std in of_stride.items() if is_std), default=0)
        for first in range(0, size, _BLOCK):
            _merge_block(
                series,
                stride,
                first,
                {length: found[stride, length] for length in of_stride},
                with_squares,
            )
    return found


def _merge_block(
    series: Series,
    stride: int,
    first: int,
    found: Mapping[int, tuple[Floats, Floats, Floats]],
    with_squares: int,
) -> None:
    """float8_combine() over the states from each position of a block on, step by step.

    Operations and their order are those of its C code: each rounds, so another order has other bits.
    """
    size = len(series.value)
    end = min(first + _BLOCK, size)
    weight, total, squares = (
        each[first:end].copy() for each in (series.weight, series.total, series.squares)
    )
    difference, term = np.empty_like(weight), np.empty_like(weight)
    for step in range(max(found)):
        place = slice(first + step * stride, min(end + step * stride, size))
        length = place.stop - place.start
        if length <= 0:
            break
        if step:
            if length < len(weight):
                weight, total, squares = weight[:length], total[:length], squares[:length]
                difference, term = difference[:length], term[:length]
            other = series.weight[place]
            if step < with_squares:
                np.divide(total, weight, out=difference)
                np.divide(series.total[place], other, out=term)
                difference -= term
                np.multiply(weight, other, out=term)
                term *= difference
                term *= difference
            weight += other
            total += series.total[place]
            if step < with_squares:
                term /= weight
                np.copyto(term, 0, where=np.isnan(term))  # one of both is of nothing
                squares += series.squares[place]
                squares += term
        if step + 1 in found:
            for target, state in zip(found[step + 1], (weight, total, squares), strict=True):
                target[first : first + length] = state


def _summed(values: Floats, length: int) -> Floats:
    """Sums from each position on, oldest first."""
    total = values.copy()
    for step in range(1, length):
        total[: len(values) - step] += values[step:]
    return total


def _combined(
    values: Floats, combine: Callable[[Floats, Floats], Floats], stride: int, length: int
) -> Floats:
    """An associative function of the older and the newer part, over so many values from each position on."""
    found = None
    done, size, block = 0, 1, values
    while True:
        if length & size:
            found = block if found is None else _with_next(found, block, done * stride, combine)
            done += size
        if done == length:
            assert found is not None  # noqa: S101  # of at least one hour
            return found
        block = _with_next(block, block, size * stride, combine)
        size *= 2


def _with_next(
    older: Floats, newer: Floats, distance: int, combine: Callable[[Floats, Floats], Floats]
) -> Floats:
    found = older.copy()
    if distance < len(older):
        found[:-distance] = combine(older[:-distance], newer[distance:])
    return found


#: As PostgreSQL's float8smaller and float8larger: of equal ones (0 and -0) the newer.
_COMBINED: Final[Mapping[str, tuple[str, Callable[[Floats, Floats], Floats]]]] = {
    "min": ("least", lambda older, newer: np.where((older < newer) | np.isnan(newer), older, newer)),
    "max": ("greatest", lambda older, newer: np.where((older > newer) | np.isnan(newer), older, newer)),
    "first": ("value", lambda older, newer: np.where(np.isnan(older), newer, older)),
    "last": ("value", lambda older, newer: np.where(np.isnan(newer), older, newer)),
    "count": ("readings", np.add),
}
