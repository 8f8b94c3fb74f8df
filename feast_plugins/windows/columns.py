"""Features of many rows at once, in columns: values of the SQL way (statements.py), with the same bits.

A column is a series of steps without gaps, each a position. Ranges of many assets lie one behind the other,
each after the steps that it looks back to; what is computed across the end of a range is never used. States
merge oldest first, as stats_merge() does: a window of n steps is n operations on whole columns.

There is a case for each type of expression in features.py; `knows` tells of others, which are left to
SQL, as are values so large that the server might refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from feast_plugins.windows.features import (
    FUNCTIONS,
    HOUR,
    READING,
    TOTAL,
    WEATHER,
    DegreeHours,
    Difference,
    Expression,
    Lag,
    OfColumn,
    Quantile,
    Ratio,
    SameHour,
    Series,
    Weather,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from feast_plugins.windows.declarations import Declaration

    Floats = npt.NDArray[np.float64]
    Positions = npt.NDArray[np.intp]
    Integers = npt.NDArray[np.int64]

#: The states of a block of positions stay in a core's cache.
_BLOCK: Final = 8192
#: Values of windows that are sorted at once, which bounds memory.
_SORTED: Final = 1 << 20
#: Sums of squares of values beyond it may overflow, of which the server has an opinion.
_LARGEST: Final = 1e100
#: Logarithm of a ratio beyond which it may be no double.
_LARGEST_RATIO: Final = 700
_HOUR_US: Final = 3_600_000_000
_LEAVES: Final = frozenset({Window, Quantile, Lag, Weather, Series, SameHour, DegreeHours})


class UndecidedError(Exception):
    """The server has to compute these rows: only it knows what becomes of their values."""


@dataclass(frozen=True)
class Column:
    """A column, an element a position: NaN, weight 0 and total -0.0 where nothing is known."""

    #: position of each row
    rows: Positions
    value: Floats
    least: Floats
    greatest: Floats
    #: the state {weight, sum, squares} of stats_merge()
    weight: Floats
    total: Floats
    squares: Floats
    readings: Floats

    @classmethod
    def of_values(cls, rows: Positions, value: Floats) -> Column:
        """A column of which each position has one value at most."""
        is_empty = np.isnan(value)
        weight = (~is_empty).astype(np.float64)
        total = np.where(is_empty, -0.0, value)
        return cls(rows, value, value, value, weight, total, np.zeros(len(value)), weight)

    def require_moderate(self) -> None:
        """Raise `UndecidedError` where values are infinite, no number or very large."""
        for each in (self.value, self.least, self.greatest, self.total):
            if np.any(np.abs(each) > _LARGEST):
                raise UndecidedError
        squares = self.squares
        if np.isnan(self.total).any() or np.isnan(squares).any() or np.any(squares > _LARGEST**2):
            raise UndecidedError


@dataclass(frozen=True)
class IssuedColumn:
    """A column with several issues of a value: what it is depends on the row that looks at it.

    An element of `positions`, `since` and `values` is an issue, in order of the first two.
    """

    #: position of each row
    rows: Positions
    size: int
    positions: Positions
    #: of rows so many steps after the position it is the value, until the next issue
    since: Integers
    #: NaN: there is none any more
    values: Floats

    @classmethod
    def of_issues(
        cls,
        rows: Positions,
        size: int,
        *,
        positions: Positions,
        times: Integers,
        since: Integers,
        available: Integers,
        values: Floats,
        per_hour: int,
        reach: tuple[int, int],
    ) -> IssuedColumn:
        """The means of the newest issues of all times in a step.

        Where an hour has several steps, an issue may be of more than one, see sources.SERIES_IN_HOURS.

        Args:
            rows: position of each row.
            size: number of positions, whole hours.
            positions: of the steps in which the times of the issues are.
            times: that the issues are of, in microseconds since a whole hour.
            since: of rows so many steps later it is available.
            available: since when, in the same order.
            values: of the issues.
            per_hour: steps in an hour, 1 of longer ones.
            reach: nearest and farthest step that rows look back to.
        """
        nearest, farthest = reach
        # all that is known of an hour says which steps an issue is of
        of_hour = positions % per_hour
        group, since = positions - of_hour, np.maximum(since + of_hour, nearest)
        span = per_hour + farthest
        is_seen = since < span
        order = np.lexsort((available, since, times, group))
        order = order[is_seen[order]]
        group, times, since, values = group[order], times[order], since[order], values[order]
        # of issues of a time that are known since the same row the last one counts
        is_last = np.ones(len(order), bool)
        is_last[:-1] = (group[1:] != group[:-1]) | (times[1:] != times[:-1]) | (since[1:] != since[:-1])
        group, times, since, values = group[is_last], times[is_last], since[is_last], values[is_last]
        is_time = np.ones(len(group), bool)
        is_time[1:] = (group[1:] != group[:-1]) | (times[1:] != times[:-1])
        time = np.cumsum(is_time) - 1
        keys = time * span + since
        # whenever something of a group gets known, it has other values
        versions = np.unique(group * span + since)
        of_version, known_since = versions // span, versions % span
        first = np.searchsorted(group[is_time], of_version)
        counts = np.searchsorted(group[is_time], of_version, side="right") - first

        def issues() -> Iterator[tuple[npt.NDArray[np.bool_], Positions]]:
            """Of each time of a group: whether a version has an issue of it, and which."""
            for number in range(max(counts, default=0)):
                found = np.searchsorted(keys, (first + number) * span + known_since, side="right") - 1
                yield (number < counts) & (found >= 0) & (time[found] == first + number), found

        total, weight = np.zeros((2, per_hour, len(versions)))
        in_hour = times % _HOUR_US
        count, place = np.zeros((2, len(versions)), np.int64)
        for is_known, _ in issues():
            count += is_known
        is_regular = per_hour % np.maximum(count, 1) == 0
        for is_known, issue in issues():
            is_regular &= ~is_known | (in_hour[issue] * count % _HOUR_US == 0)
        for is_known, issue in issues():
            for step in range(per_hour):
                lasting = step * count // per_hour == place
                own = in_hour[issue] * per_hour // _HOUR_US == step
                is_of = is_known & (np.where(is_regular, lasting, own) if per_hour > 1 else True)
                total[step] += np.where(is_of, values[issue], 0.0)
                weight[step] += is_of
            place += is_known
        where = np.concatenate([of_version + step for step in range(per_hour)])
        when = np.concatenate([known_since - step for step in range(per_hour)])
        with np.errstate(invalid="ignore"):  # nothing of nothing
            what = (total / weight).ravel()
        order = np.lexsort((when, where))
        return cls(rows, size, where[order], when[order], what[order])

    def require_moderate(self) -> None:
        """Raise `UndecidedError` where values are infinite or very large."""
        if np.any(np.abs(self.values) > _LARGEST):
            raise UndecidedError

    @cached_property
    def _latest_first(self) -> tuple[Integers, Positions, Floats, Floats]:
        """Of each issue minus `since`, position, value and the value before; the latest issues first."""
        before = np.full(len(self.values), np.nan)
        is_next = self.positions[1:] == self.positions[:-1]
        before[1:][is_next] = self.values[:-1][is_next]
        order = np.argsort(-self.since, kind="stable")
        return -self.since[order], self.positions[order], self.values[order], before[order]

    def known(self, steps: Iterable[int]) -> Iterator[Floats]:
        """The column as rows so many steps later know it, farthest first; the array is used again."""
        since, positions, values, before = self._latest_first
        column = np.full(self.size, np.nan)
        done = None
        for ago in steps:
            start = int(np.searchsorted(since, -ago))
            if done is None:  # of several issues of a position the latest comes first
                column[positions[start:][::-1]] = values[start:][::-1]
            else:
                column[positions[done:start]] = before[done:start]
            done = start
            yield column


def knows(declaration: Declaration) -> bool:
    """Whether there is a case for each of its expressions, functions and columns."""
    leaves = declaration.leaves
    kinds = {*map(type, declaration.stored.values()), *map(type, leaves)}
    return (
        kinds <= {*_LEAVES, Difference, Ratio}
        and all(leaf.function in FUNCTIONS for leaf in leaves if isinstance(leaf, Window | SameHour))
        and all(leaf.column in {READING, TOTAL, *WEATHER} or "@" in leaf.column for leaf in leaves)
    )


def evaluate(
    declaration: Declaration,
    columns: Mapping[str, Column | IssuedColumn],
    is_plain: npt.NDArray[np.bool_],
) -> dict[str, Floats]:
    """Stored features of the rows of these columns; NaN where one is empty.

    Args:
        declaration: one that `knows`.
        columns: by the name of the column; all have the same rows, each with all steps before it that the
            declaration looks back to.
        is_plain: of each row, whether sums of its asset's readings are not over time.

    Raises:
        UndecidedError: a value is infinite, no number or very large.
    """
    leaves = declaration.leaves
    found: dict[Expression, Floats] = {}
    with np.errstate(all="ignore"):  # of positions that are no rows
        for name, column in columns.items():
            column.require_moderate()
            of_column = [leaf for leaf in leaves if leaf.column == name]
            if isinstance(column, Column):
                found |= _leaves(column, of_column)
            else:
                found |= {leaf: _of_issues(column, leaf) for leaf in of_column}
            if declaration.step != HOUR:
                found |= _in_hours(declaration, found, of_column, is_plain)
        return {name: _value(each, found) for name, each in declaration.stored.items()}


def _in_hours(
    declaration: Declaration,
    found: Mapping[Expression, Floats],
    leaves: Sequence[OfColumn],
    is_plain: npt.NDArray[np.bool_],
) -> dict[Expression, Floats]:
    """Sums of rates are over hours, whatever the step."""
    hours = declaration.step / HOUR
    of_asset = np.where(is_plain, 1.0, hours)
    return {
        leaf: found[leaf] * (hours if leaf.column in WEATHER else of_asset)
        for leaf in leaves
        if leaf.column in {READING, TOTAL, *WEATHER}
        if isinstance(leaf, DegreeHours) or getattr(leaf, "function", None) == "sum"
    }


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


def _leaves(column: Column, leaves: Sequence[OfColumn]) -> dict[Expression, Floats]:
    """Expressions over one column in its rows."""
    found: dict[Expression, Floats] = {}
    merged = _merged_states(column, leaves)
    for leaf in leaves:
        stride, length = _steps(leaf)
        # of the oldest step that each row looks back to
        starts = column.rows - leaf.offsets()[1]
        if isinstance(leaf, Lag | Weather):
            found[leaf] = column.value[starts]
        elif isinstance(leaf, DegreeHours):
            degrees = leaf.base - column.value if leaf.direction == "heating" else column.value - leaf.base
            found[leaf] = _summed(np.maximum(degrees, 0), length)[starts]
        elif isinstance(leaf, Window | SameHour) and leaf.function in _COMBINED:
            name, combine = _COMBINED[leaf.function]
            found[leaf] = _combined(getattr(column, name), combine, stride, length)[starts]
        elif isinstance(leaf, Window | SameHour):
            found[leaf] = _of_state(leaf.function, *(each[starts] for each in merged[stride, length]))
    by_length: dict[int, list[Quantile]] = {}
    for leaf in leaves:
        if isinstance(leaf, Quantile):
            by_length.setdefault(leaf.offsets()[1], []).append(leaf)
    for length, quantiles in by_length.items():
        found |= _quantiles(
            quantiles,
            column.rows - length,
            lambda starts, length=length: sliding_window_view(column.value, length)[starts],  # type: ignore[misc]
        )
    return found


def _of_issues(column: IssuedColumn, leaf: OfColumn) -> Floats:
    """An expression over a column with issues in its rows."""
    nearest, farthest = leaf.offsets()
    stride, _ = _steps(leaf)
    if isinstance(leaf, Quantile):
        return _quantiles([leaf], column.rows - farthest, lambda starts: _as_known(column, starts, farthest))[
            leaf
        ]
    size = column.size - (farthest - nearest)
    # from each position on, as the row `farthest` later knows it
    values = (
        known[farthest - ago : farthest - ago + size]
        for ago, known in zip(
            range(farthest, nearest - 1, -stride),
            column.known(range(farthest, nearest - 1, -stride)),
            strict=True,
        )
    )
    starts = column.rows - farthest
    if not isinstance(leaf, Window | SameHour):
        return next(values)[starts]
    if leaf.function == "count":
        return reduce(np.add, (~np.isnan(each) for each in values), np.zeros(size))[starts]
    if leaf.function in _COMBINED:
        _, combine = _COMBINED[leaf.function]
        return reduce(combine, values, np.full(size, np.nan))[starts]
    state = np.zeros(size), np.full(size, -0.0), np.zeros(size)
    scratch = np.empty(size), np.empty(size)
    for each in values:
        is_empty = np.isnan(each)
        other = (~is_empty).astype(np.float64), np.where(is_empty, -0.0, each), np.zeros(size)
        _merge(state, other, scratch, with_squares=leaf.function == "std")
    return _of_state(leaf.function, *(each[starts] for each in state))


def _as_known(column: IssuedColumn, starts: Positions, length: int) -> Floats:
    """Of each row that looks back to so many steps from `starts` on: their values, as it knows them."""
    found = np.empty((len(starts), length))
    for step, known in enumerate(column.known(range(length, 0, -1))):
        found[:, step] = known[starts + step]
    return found


def _quantiles(
    leaves: Sequence[Quantile], starts: Positions, windows: Callable[[Positions], Floats]
) -> dict[Expression, Floats]:
    """Quantiles of windows of one length, interpolated as percentile_cont() does.

    Args:
        leaves: the quantiles.
        starts: position of the oldest step of each row.
        windows: values of the windows from such positions on, a row each.
    """
    found: dict[Expression, Floats] = {leaf: np.empty(len(starts)) for leaf in leaves}
    rows = max(1, _SORTED // leaves[0].offsets()[1])
    for first in range(0, len(starts), rows):
        part = slice(first, first + rows)
        values = np.sort(windows(starts[part]))  # empty ones come last
        known = np.count_nonzero(~np.isnan(values), axis=1)
        each = np.arange(len(values))
        for leaf in leaves:
            place = leaf.quantile * (known - 1)  # of nothing it is that of an empty value
            below = np.floor(place)
            low, high = values[each, below.astype(np.intp)], values[each, np.ceil(place).astype(np.intp)]
            found[leaf][part] = np.where(place == below, low, low + (place - below) * (high - low))
    return found


def _steps(leaf: OfColumn) -> tuple[int, int]:
    """Positions from one step of an expression to the next, and how many steps it has."""
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
    column: Column, leaves: Iterable[OfColumn]
) -> dict[tuple[int, int], tuple[Floats, Floats, Floats]]:
    """By stride and length: the states merged from each position on."""
    lengths: dict[int, dict[int, bool]] = {}
    for leaf in leaves:
        if isinstance(leaf, Window | SameHour) and leaf.function not in _COMBINED:
            stride, length = _steps(leaf)
            of_stride = lengths.setdefault(stride, {})
            of_stride[length] = of_stride.get(length, False) or leaf.function == "std"
    size = len(column.value)
    found = {
        (stride, length): (np.empty(size), np.empty(size), np.empty(size))
        for stride, of_stride in lengths.items()
        for length in of_stride
    }
    for stride, of_stride in lengths.items():
        with_squares = max((length for length, is_std in of_stride.items() if is_std), default=0)
        for first in range(0, size, _BLOCK):
            _merge_block(
                column,
                stride,
                first,
                {length: found[stride, length] for length in of_stride},
                with_squares,
            )
    return found


def _merge_block(
    column: Column,
    stride: int,
    first: int,
    found: Mapping[int, tuple[Floats, Floats, Floats]],
    with_squares: int,
) -> None:
    """The states from each position of a block on, merged step by step."""
    size = len(column.value)
    end = min(first + _BLOCK, size)
    state = tuple(each[first:end].copy() for each in (column.weight, column.total, column.squares))
    scratch = np.empty_like(state[0]), np.empty_like(state[0])
    for step in range(max(found)):
        place = slice(first + step * stride, min(end + step * stride, size))
        length = place.stop - place.start
        if length <= 0:
            break
        if step:
            state = tuple(each[:length] for each in state)
            other = column.weight[place], column.total[place], column.squares[place]
            _merge(state, other, [each[:length] for each in scratch], with_squares=step < with_squares)
        if step + 1 in found:
            for target, each in zip(found[step + 1], state, strict=True):
                target[first : first + length] = each


def _merge(
    state: Sequence[Floats], other: Sequence[Floats], scratch: Sequence[Floats], *, with_squares: bool
) -> None:
    """float8_combine() of each state with a newer one, in place.

    Operations and their order are those of its C code: each rounds, so another order has other bits.
    """
    weight, total, squares = state
    other_weight, other_total, other_squares = other
    difference, term = scratch
    if with_squares:
        np.divide(total, weight, out=difference)
        np.divide(other_total, other_weight, out=term)
        difference -= term
        np.multiply(weight, other_weight, out=term)
        term *= difference
        term *= difference
    weight += other_weight
    total += other_total
    if with_squares:
        term /= weight
        np.copyto(term, 0, where=np.isnan(term))  # one of both is of nothing
        squares += other_squares
        squares += term


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
