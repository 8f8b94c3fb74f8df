# ruff: noqa: E501 - SQL as it is sent
"""What long ranges of declared rows look at, read into columns: readings, weather, external series, totals of groups.

Steps have numbers, from 1970 on; those of days are dates in the asset's time zone. What many assets look at, such as
the weather of one station, is read once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from psycopg.adapt import Loader
from psycopg.pq import Format
from typing_extensions import Buffer, override

from feast_plugins.windows.columns import Column, IssuedColumn, UndecidedError
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.features import DAY, HOUR, READING, TOTAL, WEATHER, WEATHER_AGE, merged, series_of
from feast_plugins.windows.statements import gap
from feast_plugins.windows.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from feast_plugins.windows.columns import Floats

    Integers = npt.NDArray[np.int64]
    Positions = npt.NDArray[np.intp]

#: PostgreSQL's binary times are microseconds since 2000.
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_US: Final = int(EPOCH.timestamp()) * 1_000_000
#: Positions of a batch, steps that rows look back to among them: about 100 bytes each.
POSITIONS: Final = 150_000
#: Of one query; a batch that needs more is divided.
_MOST_ROWS: Final = 20 * POSITIONS
#: Zones of assets are at most 14 hours off UTC.
_SLACK: Final[Mapping[timedelta, timedelta]] = {DAY: timedelta(hours=26)}
_HOUR_US: Final = 3_600_000_000
_PARTS: Final = """\
unnest(%(numbers)s::bigint[], %(tenants)s::text[], %(names)s::text[], %(zones)s::text[], %(firsts)s::bigint[], %(ends)s::bigint[])
    AS k (number, tenant_id, asset_id, timezone, first_step, end_step)"""
_BOUNDS: Final = "AND hourly.hour >= %(lowest)s::timestamptz AND hourly.hour < %(highest)s::timestamptz"
# OFFSET 0: the planner would compare each hour with each asset, and read the hours of all assets
_READINGS: Final = """\
SELECT k.number, {time} AS time, meaning.*, hourly.sample_count
FROM (
    SELECT k.*, assets.is_amount, assets.unit_factor, assets.interval_seconds
    FROM {parts}
    LEFT JOIN assets ON assets.tenant_id = k.tenant_id AND assets.asset_id = k.asset_id
    OFFSET 0
) AS k
CROSS JOIN LATERAL (
{readings}
OFFSET 0
) AS hourly
LEFT JOIN LATERAL {meaning} AS meaning ON true"""
#: Of a row of it.
_STATISTICS: Final = (
    *("coalesce(value, 'NaN')", "coalesce(least_value, 'NaN')", "coalesce(greatest_value, 'NaN')"),
    *("coalesce(stats[1], 0)", "coalesce(stats[2], '-0')", "coalesce(stats[3], 0)"),
    "sample_count::double precision",
)
# NaN is nothing known, so one that is known becomes another number that nobody can compute with
_KNOWN: Final = "CASE WHEN {0} = 'NaN' THEN 'Infinity' ELSE coalesce({0}, 'NaN') END"
_WEATHER_ROWS: Final = """\
SELECT k.number, weather.*
FROM {parts}
CROSS JOIN LATERAL (
    SELECT * FROM weather_features AS weather
    WHERE weather.tenant_id = k.tenant_id AND weather.asset_id = k.asset_id
        AND weather."timestamp" > {first} - INTERVAL '{age} hours' AND weather."timestamp" < {end}
        AND weather."timestamp" >= %(lowest)s::timestamptz - INTERVAL '{age} hours' AND weather."timestamp" < %(highest)s::timestamptz
        AND weather.available_at < weather."timestamp" + INTERVAL '{age} hours'
) AS weather"""
_ISSUES: Final = """\
SELECT k.number, issues."timestamp", {begin} AS begin, {since} AS since, issues.available_at, issues.value
FROM {parts}
CROSS JOIN LATERAL (
    SELECT * FROM covariates AS issues
    WHERE issues.tenant_id = k.tenant_id AND issues.series = %(series)s AND issues.zone = k.asset_id
        AND issues."timestamp" >= {first} AND issues."timestamp" < {end}
        AND issues."timestamp" >= %(lowest)s::timestamptz AND issues."timestamp" < %(highest)s::timestamptz
) AS issues"""
# Of each group its members whose readings have begun, in the order in which they are added.
_MEMBERS: Final = """\
SELECT k.number, members.asset_id, coalesce(members.feature_unit, ''), extract(epoch FROM spans.first_hour)::bigint
FROM {parts}
JOIN assets AS members ON members.tenant_id = k.tenant_id AND members."group" = k.asset_id
JOIN asset_spans AS spans ON spans.tenant_id = members.tenant_id AND spans.asset_id = members.asset_id
ORDER BY k.number, members.asset_id"""


@dataclass(frozen=True)
class Range:
    """Rows to compute of one asset."""

    #: as the server has it
    text: str
    tenant: str
    asset: str
    timezone: str
    #: whether sums of its readings are not over time
    is_plain: bool
    #: whose weather and whose values of series it uses; None: nobody's
    zones: Mapping[str, str | None]
    #: number of the first row
    first: int
    #: seconds since 1970 of each row
    times: Integers
    #: as the queue has it; days have a row where they begin
    first_s: int
    end_s: int

    @property
    def end(self) -> int:
        """Number of the row after the last one."""
        return self.first + len(self.times)


@dataclass(frozen=True)
class _Part:
    """Steps [first, end) of whoever has this name: an asset, a station, a zone or a group."""

    tenant: str
    name: str
    timezone: str
    first: int
    end: int


@dataclass(frozen=True)
class _Layout:
    """Where the steps of a column are: those of each part behind those of another one."""

    parts: Sequence[_Part]
    #: what of them is to be read, and the number of its part
    read: Sequence[tuple[int, _Part]]
    rows: Positions

    @property
    def starts(self) -> Positions:
        """First position of each part, and the number of positions."""
        return np.cumsum([0, *(each.end - each.first for each in self.parts)])

    @property
    def origins(self) -> Positions:
        """Position of each part's step with the number 0."""
        return self.starts[:-1] - np.array([each.first for each in self.parts], np.int64)

    def positions(self, numbers: Integers, steps: Integers) -> Positions:
        """Positions of steps of parts."""
        found = self.origins[numbers] + steps
        if np.any((found < self.starts[numbers]) | (found >= self.starts[numbers + 1])):
            raise UndecidedError  # a calendar that leaves out a day
        return found


@dataclass(frozen=True)
class Inputs:
    """Reads the columns of a declaration for ranges of rows."""

    connection: psycopg.Connection[Any]
    declaration: Declaration
    ranges: Sequence[Range]

    def read(self) -> dict[str, Column | IssuedColumn]:
        """By name of the column.

        Raises:
            UndecidedError: too much for one batch, or only the server knows what becomes of it.
        """
        offsets: dict[str, list[tuple[int, int]]] = {}
        for leaf in self.declaration.leaves:
            offsets.setdefault(leaf.column, []).append(leaf.offsets())
        found: dict[str, Column | IssuedColumn] = {}
        weather = {column: offsets[column] for column in offsets if column in WEATHER}
        if weather:
            found |= self._weather(list(weather), [each for of in weather.values() for each in of])
        for column, reaches in offsets.items():
            if column == READING:
                found[column] = self._readings(reaches)
            elif column == TOTAL:
                found[column] = self._totals(reaches)
            elif column not in WEATHER:
                found[column] = self._series(column, reaches)
        return found

    @property
    def _steps(self) -> Steps:
        return Steps(self.declaration.step)

    @property
    def _step_us(self) -> int:
        return self.declaration.step // timedelta(microseconds=1)

    def _layout(
        self,
        name: Callable[[Range], str | None],
        reaches: Sequence[tuple[int, int]],
        *,
        gap: int = 0,
        multiple: int = 1,
    ) -> _Layout:
        """The steps that ranges look back to, in whole multiples of so many steps.

        Ranges without a name have a part of their own in which nothing is.
        """
        nearest, farthest = min(each[0] for each in reaches), max(each[1] for each in reaches)
        keys = [
            (each.tenant, name(each), each.timezone if self.declaration.step == DAY else "UTC")
            for each in self.ranges
        ]
        whole: dict[tuple[str, str | None, str], list[tuple[int, int]]] = {}
        looked_at: dict[tuple[str, str | None, str], list[tuple[int, int]]] = {}
        for key, each in zip(keys, self.ranges, strict=True):
            if each.end == each.first:
                continue

            def steps(near: int, far: int, each: Range = each) -> tuple[int, int]:
                first, end = each.first - far, each.end - near
                return first - first % multiple, end + -end % multiple - 1

            whole.setdefault(key, []).append(steps(nearest, farthest))
            looked_at.setdefault(key, []).extend(steps(*reach) for reach in reaches)
        parts: list[_Part] = []
        read: list[tuple[int, _Part]] = []
        of_key: dict[tuple[str, str | None, str], tuple[list[int], int]] = {}
        for key, spans in whole.items():
            tenant, who, timezone = key
            of_whole = merged(spans, gap)
            firsts = [first for first, _ in of_whole]
            of_key[key] = firsts, len(parts)
            if who is not None:
                read += [
                    (
                        len(parts) + bisect_right(firsts, first) - 1,
                        _Part(tenant, who, timezone, first, last + 1),
                    )
                    for first, last in merged(looked_at[key], gap)
                ]
            parts += [_Part(tenant, who or "", timezone, first, last + 1) for first, last in of_whole]
        layout = _Layout(parts, read, np.empty(0, np.intp))
        origins = layout.origins
        rows = [np.empty(0, np.intp)]
        for key, each in zip(keys, self.ranges, strict=True):
            if each.end > each.first:
                firsts, number = of_key[key]
                origin = origins[number + bisect_right(firsts, each.first - farthest) - 1]
                rows.append(np.arange(origin + each.first, origin + each.end))
        return _Layout(parts, read, np.concatenate(rows))

    def _readings(self, reaches: Sequence[tuple[int, int]]) -> Column:
        layout = self._layout(lambda each: each.asset, reaches, gap=gap(READING))
        positions, *values = self._statistics(_STATISTICS, layout)
        columns = []
        for nothing, known in zip((np.nan, np.nan, np.nan, 0.0, -0.0, 0.0, 0.0), values, strict=True):
            column = np.full(layout.starts[-1], nothing)
            column[positions] = known
            columns.append(column)
        return Column(layout.rows, *columns)

    def _weather(self, names: Sequence[str], reaches: Sequence[tuple[int, int]]) -> dict[str, Column]:
        """Of each step the newest value that was available when it began, of at most six hours before."""
        layout = self._layout(lambda each: each.zones["weather"], reaches)
        steps = self._steps
        query = _WEATHER_ROWS.format(
            parts=_PARTS,
            first=steps.numbered("k.first_step"),
            end=steps.numbered("k.end_step"),
            age=WEATHER_AGE,
        )
        numbers, times, available, *values = self._read(
            query,
            layout.read,
            integers=("number", '"timestamp"', "available_at"),
            doubles=[_KNOWN.format(name) for name in names],
        )
        order = np.lexsort((available, times, numbers))
        numbers, times, available = numbers[order], times[order] + EPOCH_US, available[order]
        firsts = np.array([each.first for each in layout.parts], np.int64)[numbers]
        ends = np.array([each.end for each in layout.parts], np.int64)[numbers]
        first_steps = -(-times // self._step_us)
        found = {}
        for name, unordered in zip(names, values, strict=True):
            value = unordered[order]
            is_known = ~np.isnan(value)
            grid = np.full(layout.starts[-1], np.nan)
            # steps that a value counts for; where several do, the last one written is the newest
            for later in reversed(range(WEATHER_AGE * _HOUR_US // self._step_us)):
                at = first_steps + later
                counts = (
                    is_known
                    & (at * self._step_us < times + WEATHER_AGE * _HOUR_US)
                    & (at * self._step_us - EPOCH_US >= available)
                    & (at >= firsts)
                    & (at < ends)
                )
                grid[layout.positions(numbers[counts], at[counts])] = value[counts]
            found[name] = Column.of_values(layout.rows, grid)
        return found

    def _series(self, column: str, reaches: Sequence[tuple[int, int]]) -> IssuedColumn:
        """Of each step the mean of its newest issues, as each row knows them."""
        name, key = series_of(column)
        per_hour = max(1, HOUR // self.declaration.step)
        layout = self._layout(lambda each: each.zones[key], reaches, multiple=per_hour)
        steps = self._steps
        query = _ISSUES.format(
            begin=steps.even(steps.begin('issues."timestamp"')),
            since=steps.since("issues.available_at"),
            parts=_PARTS,
            first=steps.numbered("k.first_step"),
            end=steps.numbered("k.end_step"),
        )
        numbers, times, begins, since, available, values = self._read(
            query,
            layout.read,
            integers=("number", '"timestamp"', "begin", "since", "available_at"),
            doubles=("value",),
            series=name,
        )
        at = self._number(begins)
        positions = layout.positions(numbers, at)
        # '-infinity' is before all, 'infinity' after
        bound = 2**62
        since = -(-(np.clip(since, -bound, bound) + EPOCH_US) // self._step_us) - at
        nearest, farthest = min(each[0] for each in reaches), max(each[1] for each in reaches)
        return IssuedColumn.of_issues(
            layout.rows,
            layout.starts[-1],
            positions=positions,
            times=times,
            since=since,
            available=available,
            values=values,
            per_hour=per_hour,
            reach=(nearest, farthest),
        )

    def _totals(self, reaches: Sequence[tuple[int, int]]) -> Column:
        """Of each step the sum of the group, where all members that have begun have a value in one unit."""
        layout = self._layout(lambda each: each.zones["group"], reaches)
        size = layout.starts[-1]
        total, members, values = np.full(size, -0.0), np.zeros(size), np.zeros(size)
        units, differ = np.full(size, -1), np.zeros(size, bool)
        number_of: dict[str, int] = {}
        pending: list[tuple[_Part, int]] = []

        def add() -> None:
            for (part, position), value in zip(
                pending, self._values([each for each, _ in pending]), strict=True
            ):
                place = slice(position, position + part.end - part.first)
                is_known = ~np.isnan(value)
                total[place] += np.where(is_known, value, -0.0)
                members[place] += 1
                values[place] += is_known
            pending.clear()

        rows = (
            self.connection.execute(
                _MEMBERS.format(parts=_PARTS).encode(), self._parameters(layout.read)
            ).fetchall()
            if layout.read
            else []
        )
        for number, asset, unit, begun in rows:
            whole = layout.parts[number]
            first = max(whole.first, begun * 1_000_000 // self._step_us)
            if first >= whole.end:
                continue
            position = int(layout.starts[number]) + first - whole.first
            place = slice(position, position + whole.end - first)
            unit_number = number_of.setdefault(unit, len(number_of))
            differ[place] |= (units[place] >= 0) & (units[place] != unit_number)
            units[place] = unit_number
            pending.append((_Part(whole.tenant, asset, "UTC", first, whole.end), position))
            if sum(part.end - part.first for part, _ in pending) >= POSITIONS:
                add()
        add()
        is_whole = (members > 0) & (members == values) & ~differ
        return Column.of_values(layout.rows, np.where(is_whole, total, np.nan))

    def _values(self, parts: Sequence[_Part]) -> list[Floats]:
        """Values of the readings of each asset in its steps; NaN where there is none."""
        if not parts:
            return []
        layout = _Layout(parts, list(enumerate(parts)), np.empty(0, np.intp))
        column = np.full(layout.starts[-1], np.nan)
        positions, values = self._statistics((_KNOWN.format("value"),), layout)
        column[positions] = values
        return np.split(column, layout.starts[1:-1])

    def _statistics(self, values: Sequence[str], layout: _Layout) -> list[npt.NDArray[Any]]:
        """Positions of the steps with readings, and these values of each."""
        steps = self._steps
        query = _READINGS.format(
            time=steps.even("hourly.hour"),
            parts=_PARTS,
            readings=steps.readings(steps.numbered("k.first_step"), steps.numbered("k.end_step"), _BOUNDS),
            meaning=steps.meaning,
        )
        numbers, times, *found = self._read(query, layout.read, integers=("number", "time"), doubles=values)
        return [layout.positions(numbers, self._number(times)), *found]

    def _number(self, times: Integers) -> Integers:
        """Numbers of the steps that times are in."""
        return (times + EPOCH_US) // self._step_us

    def _parameters(self, parts: Sequence[tuple[int, _Part]]) -> dict[str, Any]:
        step, slack = self.declaration.step, _SLACK.get(self.declaration.step, timedelta(0))
        return {
            "numbers": [number for number, _ in parts],
            "tenants": [each.tenant for _, each in parts],
            "names": [each.name for _, each in parts],
            "zones": [each.timezone for _, each in parts],
            "firsts": [each.first for _, each in parts],
            "ends": [each.end for _, each in parts],
            "lowest": time_text(
                (min(each.first for _, each in parts) * step - slack) // timedelta(seconds=1)
            ),
            "highest": time_text((max(each.end for _, each in parts) * step + slack) // timedelta(seconds=1)),
        }

    def _read(
        self,
        query: str,
        parts: Sequence[tuple[int, _Part]],
        *,
        integers: Sequence[str],
        doubles: Sequence[str],
        **others: str,
    ) -> list[npt.NDArray[Any]]:
        """Expressions over the rows of a query: numbers or times in microseconds since 2000, and doubles, none NULL.

        As arrays, because a row costs psycopg more than the server. Not by ADBC, which has a connection of its own: on
        the embedded server it would wait for this transaction.
        """
        kinds = [np.dtype(np.int64)] * len(integers) + [np.dtype(np.float64)] * len(doubles)
        # LIMIT: columns that several expressions use are computed once
        columns = ", ".join(f"array_agg({each})" for each in (*integers, *doubles))
        arrays = f"SELECT {columns} FROM (\n{query}\nLIMIT {_MOST_ROWS + 1}\n) AS rows"  # noqa: S608  # constants
        found = None
        if parts:
            cursor = self.connection.cursor(binary=True)
            for kind in ("int8", "timestamptz", "float8"):
                cursor.adapters.register_loader(psycopg.adapters.types[kind].array_oid, _ArrayLoader)
            found = cursor.execute(
                arrays.encode(), self._parameters(parts) | others, prepare=False
            ).fetchone()
        if found is None or found[0] is None:
            return [np.empty(0, kind) for kind in kinds]
        if len(found[0]) > _MOST_ROWS:
            raise UndecidedError
        return [
            each.view(kind.newbyteorder(">")).astype(kind) for kind, each in zip(kinds, found, strict=True)
        ]


class _ArrayLoader(Loader):
    """Loads an array without NULL of values of 8 bytes, as integers in the order of bytes in which it comes."""

    format = Format.BINARY

    @override
    def load(self, data: Buffer) -> npt.NDArray[np.int64]:
        # dimensions, whether there is NULL, type, length and first index, then of each value its size before it
        values = np.frombuffer(bytes(data), [("size", ">i4"), ("value", ">i8")], offset=20)["value"]
        return np.ascontiguousarray(values)


def time_text(seconds: int) -> str:
    """A time as PostgreSQL reads it, also beyond the years that Python knows."""
    return str(np.datetime64(seconds, "s")) + "+00"
