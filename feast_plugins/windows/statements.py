# ruff: noqa: E501, S608 - SQL as it is sent
"""SQL of a declared view, from one template: what a row is, as of now and as it was known.

A row is computed by one lateral query over the hours it looks back to. The same text is in the view, for rows
that no refresh has stored, and in the statement of the refresh. Each source of values is a subquery with the same
columns: hours `ago`, `value`, `least`, `greatest`, `state` {weight, sum, squares}, `readings` and `ingested_at`; an
expression is an aggregate over it. Longer ranges of rows are computed by window functions over grids of hours with
the same columns, merged in the same order, so both ways give the same bits. Weather of the row's own hour is read
for all of its variables at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from feast_plugins.windows import sources, templates
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.expressions import (
    aggregate,
    of_register,
    remembered,
    sql_type,
    weather_window,
    window,
)
from feast_plugins.windows.features import (
    DAY,
    HOUR,
    READING,
    TOTAL,
    WEATHER,
    WEATHER_AGE,
    Difference,
    Expression,
    OfColumn,
    SameHour,
    Weather,
    merged,
    series_of,
)
from feast_plugins.windows.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Changes when what this module makes of a declaration does, so that `feast apply` makes it anew.
_VERSION: Final = 11
#: Begins the statement of a view that this version made.
MARK: Final = f"-- feast_plugins.windows {_VERSION}\n"
#: Hours between two ranges that are cheaper to read than a second look into the index.
_CHEAP_GAP: Final = 48
#: Times of day that are read by themselves.
_MOST_PROBES: Final = 8
#: Steps that a window looks back to, for each row of a range from which on it is computed by windows over its steps:
#: they are made for the steps before the range, too.
_WINDOW_STEPS_PER_ROW: Final = 12


@dataclass(frozen=True)
class _Grid:
    """Steps of one column that rows of a range look back to."""

    name: str
    column: str
    leaves: list[OfColumn]
    #: before a row, in steps
    nearest: int
    farthest: int

    @property
    def steps(self) -> int:
        """Steps before a range for which the windows are made, too."""
        return self.farthest - self.nearest


@dataclass(frozen=True)
class Statements:
    """What a declaration is in TimescaleDB."""

    declaration: Declaration

    @property
    def sha256(self) -> str:
        """Digest of all statements, without what changes at each apply."""
        parts = [str(_VERSION), self.table, self.view(1), self.versions, self.compute]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def table(self) -> str:
        """Creates the table of all versions of all rows."""
        columns = ",\n    ".join(
            f'"{name}" {sql_type(each)}' for name, each in self.declaration.stored.items()
        )
        return templates.TABLE.format(view=self.declaration.name, columns=columns)

    def view(self, generation: int) -> str:
        """Creates the view of present rows."""
        stored = self.declaration.stored
        return templates.VIEW.format(
            view=self.declaration.name,
            features=self._features(),
            # without a comparison that no statistics know of where there is one generation
            present=f" AND rows.generation = {generation}" if generation > 1 else "",
            computed=_list(f'{self._kept(each)} AS "{name}"' for name, each in stored.items()),
            ingested=_list(
                f"{name}.ingested_at" for name in dict.fromkeys(map(_source, self.declaration.leaves))
            ),
            keys=self._keys(generation),
            sources=self._sources(bounded=False),
            register=templates.REGISTER,
        )

    @property
    def versions(self) -> str:
        """Creates the view of every version of every row."""
        return templates.VERSIONS.format(
            view=self.declaration.name,
            features=self._features(),
            register=templates.REGISTER,
        )

    @property
    def compute(self) -> str:
        """Computes ranges of rows and stores those that differ, see compute_declared_ranges()."""
        stored = self.declaration.stored
        grids = self._grids()
        hour = f"{grids[0].name}.hour"
        of_grid = {leaf: grid.name for grid in grids for leaf in grid.leaves}
        computed = templates.COMPUTED.format(
            computed=_list(f'{self._kept(each)} AS "{name}"' for name, each in stored.items()),
            sources=self._sources(bounded=True),
            rows=self._steps.rows("k.first_hour", "k.end_hour"),
            long=self._steps.many(max(2, *(grid.steps // _WINDOW_STEPS_PER_ROW for grid in grids))),
            hour=hour,
            computed_long=_list(
                f'{self._kept(each, hour, of_grid)} AS "{name}"' for name, each in stored.items()
            ),
            grids="\n".join(
                [
                    *(self._grid(grid, hour) for grid in grids),
                    *self._rows(bounded=True, hour=hour),
                    *self._weather(hour, bounded=True),
                ]
            ),
        )
        return MARK + self._store(computed, self._batch_totals())

    @property
    def store(self) -> str:
        """Stores rows that were computed in columns where they differ.

        Parameters are those of `compute`, then the number of each row's range, from 1, its time, and the features.
        """
        return self._store(self._given, totals="")

    @property
    def insert(self) -> str:
        """Stores such rows where there are no others; the same parameters."""
        names = _list(_quoted(self.declaration.stored))
        return templates.INSERT.format(view=self.declaration.name, names=names, computed=self._given)

    @property
    def _given(self) -> str:
        stored = self.declaration.stored
        return templates.GIVEN.format(
            given=_list(f"given.{name}" for name in _quoted(stored)),
            arrays=_list(f"${at}::{sql_type(each)}[]" for at, each in enumerate(stored.values(), start=7)),
            names=_list(_quoted(stored)),
        )

    def _store(self, computed: str, totals: str) -> str:
        stored = self.declaration.stored
        names = list(_quoted(stored))
        return templates.COMPUTE.format(
            view=self.declaration.name,
            asset_columns=sources.ASSET_COLUMNS,
            totals=totals,
            computed=computed,
            gone=templates.GONE if self.declaration.step == DAY else "",
            remembered=_list(remembered(name, each, self._steps) for name, each in stored.items()),
            # a row of one column would be no row
            known=_list(["1", *(f"known.{name}" for name in names)]),
            fresh=_list(["1", *(f"fresh.{name}" for name in names)]),
            names=_list(names),
        )

    @property
    def _steps(self) -> Steps:
        return Steps(self.declaration.step)

    def _keys(self, generation: int) -> str:
        periods = "spans.periods"
        rows, until = templates.HOURS, "time_bucket(INTERVAL '1 hour', now()) + INTERVAL '1 hour'"
        if self.declaration.step != HOUR:
            rows = templates.ROWS.format(rows=self._steps.rows("missing.first_hour", "missing.end_hour"))
            until = f"declared_rows_until(INTERVAL '{self._steps.interval}', assets.timezone)"
        if self.declaration.step == DAY:
            periods = f"rows_of_step(spans.periods, INTERVAL '{self._steps.interval}')"
        view = self.declaration.name
        return templates.KEYS.format(
            view=view,
            present=templates.PRESENT.format(view=view, generation=generation) if generation > 1 else "",
            asset_columns=sources.ASSET_COLUMNS,
            rows=rows,
            until=until,
            periods=periods,
        )

    def _features(self) -> str:
        return _list(
            f'rows."{name}"' if each.is_stored else f'{of_register(each)} AS "{name}"'
            for name, each in self.declaration.features.items()
        )

    def _series(self) -> dict[str, list[OfColumn]]:
        """Expressions over hours before the row, by the column they read; the readings first."""
        found: dict[str, list[OfColumn]] = {}
        for leaf in self.declaration.leaves:
            if not isinstance(leaf, Weather):
                found.setdefault(leaf.column, []).append(leaf)
        return dict(sorted(found.items(), key=lambda each: (each[0] != READING, each[0])))

    def _sources(self, *, bounded: bool) -> str:
        return "\n".join(
            [
                *(
                    self._row(column, leaves, bounded=bounded)
                    for column, leaves in self._series().items()
                    if not _is_by_row(column)
                ),
                *self._rows(bounded=bounded),
                *self._weather("k.hour", bounded=bounded),
            ]
        )

    def _rows(self, *, bounded: bool, hour: str = "k.hour") -> list[str]:
        """Lateral queries of the columns that have no grid of hours."""
        return [
            self._row(column, leaves, bounded=bounded, hour=hour)
            for column, leaves in self._series().items()
            if _is_by_row(column)
        ]

    def _row(self, column: str, leaves: list[OfColumn], *, bounded: bool, hour: str = "k.hour") -> str:
        """Lateral query of the aggregates over one column, in a row named like it."""
        ranges = merged((each for leaf in leaves for each in _probes(leaf)), gap=gap(column))
        parts = (
            [self._readings(ranges, bounded=bounded, hour=hour)]
            if column == READING
            else [self._looked_at(column, near, far, bounded=bounded, hour=hour) for near, far in ranges]
        )
        columns = _list(f"{aggregate(leaf)} AS {self._name(leaf)}" for leaf in leaves)
        series = "\nUNION ALL\n".join(parts)
        return f"CROSS JOIN LATERAL (\nSELECT {columns}, max(ingested_at) AS ingested_at\nFROM (\n{series}\nORDER BY ago DESC\n) AS series\n) AS {_source(leaves[0])}"

    def _batch_totals(self) -> str:
        """The totals of groups that a batch of rows uses, where any feature is of them."""
        offsets = [leaf.offsets()[1] for leaf in self.declaration.leaves if leaf.column == TOTAL]
        if not offsets:
            return ""
        return sources.BATCH_TOTALS.format(
            farthest=self._steps.many(max(offsets)),
            totals=self._totals("k.first_hour", "k.end_hour", templates.READINGS_BOUNDS),
        )

    def _totals(self, first: str, end: str, bounds: str) -> str:
        """Query of the totals of a group in [first, end)."""
        steps = self._steps
        readings = templates.READINGS_GRID.format(
            first_row="grid.hour",
            grid=steps.rows("k.first_hour", "k.end_hour"),
            readings=steps.readings("k.first_hour", "k.end_hour", bounds),
            meaning=steps.meaning,
        )
        return sources.totals(readings, first_hour=first, end_hour=end)

    def _readings(self, ranges: Iterable[tuple[int, int]], *, bounded: bool, hour: str) -> str:
        """Query of the readings of all steps that a row looks back to."""
        steps = self._steps
        return templates.READINGS.format(
            ago=steps.ago("hourly.hour"),
            ranges=_list(
                f"({steps.before(hour, farthest)}, {steps.before(hour, nearest - 1)})"
                for nearest, farthest in ranges
            ),
            readings=steps.readings(
                "ranges.first", "ranges.until", templates.READINGS_BOUNDS if bounded else ""
            ),
            meaning=steps.meaning,
        )

    def _looked_at(self, column: str, nearest: int, farthest: int, *, bounded: bool, hour: str) -> str:
        """Query of another column's steps that a row looks back to; `bounded` in the statement of a refresh."""
        steps = self._steps
        first, end = steps.before(hour, farthest), steps.before(hour, nearest - 1)
        if column == TOTAL:
            totals = (
                sources.OF_BATCH.format(first_hour=first, end_hour=end)
                if bounded
                else self._totals(first, end, "")
            )
            return sources.TOTAL.format(ago=steps.ago("total.hour"), totals=totals)
        if column in WEATHER:
            return templates.WEATHER.format(
                column=column,
                nearest=nearest,
                farthest=farthest,
                step=steps.interval,
                age=WEATHER_AGE,
                bounds=templates.WEATHER_BOUNDS if bounded else "",
            )
        name, key = series_of(column)
        within_hours = steps.step < HOUR
        template = sources.SERIES_IN_HOURS if within_hours else sources.SERIES
        begin = steps.begin('"timestamp"' if within_hours else 'issues."timestamp"')
        return template.format(
            series=name,
            zone=sources.KEYS[key],
            hour=hour,
            ago=steps.ago("steps.begin" if within_hours else begin, hour),
            begin=begin,
            step=steps.interval,
            per_hour=HOUR // steps.step,
            first=first,
            end=end,
            # the day of the last row goes on after the range
            bounds=sources.SERIES_BOUNDS if bounded and steps.step < DAY else "",
        )

    def _weather(self, hour: str, *, bounded: bool) -> list[str]:
        """Lateral query of the weather of one hour, in a row named `weather`."""
        leaves = [leaf for leaf in self.declaration.leaves if isinstance(leaf, Weather)]
        if not leaves:
            return []
        columns = [leaf.column for leaf in leaves]
        conditions = templates.WEATHER_OF_HOUR_CONDITIONS.format(
            hour=hour, age=WEATHER_AGE, bounds=templates.WEATHER_BOUNDS if bounded else ""
        )
        values = (
            f"coalesce(newest.{leaf.column}, earlier.{leaf.column}) AS {self._name(leaf)}" for leaf in leaves
        )
        return [
            templates.WEATHER_OF_HOUR.format(
                values=_list(values),
                columns=_list(f"weather.{column}" for column in columns),
                earlier=_list(templates.EARLIER.format(column=column) for column in columns),
                missing=" OR ".join(f"newest.{column} IS NULL" for column in columns),
                conditions=conditions,
            )
        ]

    def _grids(self) -> list[_Grid]:
        """Each has what looks at hours near each other; without any, the rows alone are one."""
        grids = []
        for column, leaves in self._series().items():
            if _is_by_row(column):
                continue
            for nearest, farthest in merged([leaf.offsets() for leaf in leaves], gap=gap(column)):
                of_range = [leaf for leaf in leaves if nearest <= leaf.offsets()[0] <= farthest]
                # hours of the same number are found by their number
                shift = 0 if any(isinstance(leaf, SameHour) for leaf in of_range) else nearest
                grids.append(_Grid(f"{_source(leaves[0])}_{nearest}", column, of_range, shift, farthest))
        return grids or [_Grid("rows", READING, [], 0, 0)]

    def _grid(self, grid: _Grid, hour: str) -> str:
        """Lateral query of the windows over one grid, a row for each hour of a range."""
        steps = self._steps
        if not grid.leaves:
            return f"CROSS JOIN LATERAL {steps.rows('k.first_hour', 'k.end_hour')} AS {grid.name} (hour)"
        first = steps.before("k.first_hour", grid.farthest)
        end = steps.before("k.end_hour", grid.nearest - 1)
        of_grid = {
            "first_row": steps.before("grid.hour", -grid.nearest),
            "grid": steps.rows("k.first_hour", "k.end_hour", grid.farthest, grid.nearest),
        }
        if grid.column == READING:
            readings = steps.readings(first, end, templates.READINGS_BOUNDS)
            series = templates.READINGS_GRID.format(**of_grid, readings=readings, meaning=steps.meaning)
        elif grid.column == TOTAL:
            of_batch = sources.OF_BATCH.format(first_hour=first, end_hour=end)
            series = sources.TOTAL_GRID.format(**of_grid, totals=of_batch)
        else:
            series = templates.WEATHER_GRID.format(
                **of_grid, column=grid.column, age=WEATHER_AGE, bounds=templates.WEATHER_BOUNDS
            )
        columns = _list(f"{window(leaf, grid.nearest)} AS {self._name(leaf)}" for leaf in grid.leaves)
        windows = f"SELECT hour, {columns}\nFROM (\n{series}\n) AS series"
        rows = f"SELECT * FROM (\n{windows}\n) AS windows WHERE hour >= k.first_hour"
        if hour == f"{grid.name}.hour":
            return f"CROSS JOIN LATERAL (\n{rows}\n) AS {grid.name}"
        return f"JOIN LATERAL (\n{rows}\n) AS {grid.name} ON {grid.name}.hour = {hour}"

    def _name(self, leaf: OfColumn) -> str:
        return f"f{self.declaration.leaves.index(leaf)}"

    def _value(self, of: Expression, grids: Mapping[OfColumn, str]) -> str:
        if isinstance(of, OfColumn):
            return f"{grids.get(of, _source(of))}.{self._name(of)}"
        left, right = (self._value(leaf, grids) for leaf in of.leaves())
        template = templates.DIFFERENCE if isinstance(of, Difference) else templates.RATIO
        return template.format(left=left, right=right)

    def _kept(
        self, of: Expression, hour: str = "k.hour", grids: Mapping[OfColumn, str] = MappingProxyType({})
    ) -> str:
        """Value of an expression; empty where weather that it merges may be gone."""
        value = self._value(of, grids)
        farthest = weather_window(of)
        if farthest is None:
            return value
        return f"CASE WHEN {hour} >= weather_kept_since() + {self._steps.many(farthest)} THEN {value} END"


def _source(leaf: OfColumn) -> str:
    """Name of the lateral query that a row has an expression from."""
    if isinstance(leaf, Weather):
        return "weather"
    # a name has 63 bytes, and others no @
    return leaf.column.replace("@", "$", 1)[:55] if "@" in leaf.column else leaf.column


def _probes(leaf: OfColumn) -> list[tuple[int, int]]:
    """Ranges of steps to read: a few steps of the same time of day by themselves, where many are between them."""
    is_sparse = isinstance(leaf, SameHour) and leaf.slide_interval < HOUR and leaf.days <= _MOST_PROBES
    if not is_sparse or leaf.column != READING:
        return [leaf.offsets()]
    nearest, farthest = leaf.offsets()
    return [(step, step) for step in range(nearest, farthest + 1, nearest)]


def gap(column: str) -> int:
    """Hours between two ranges that are read together."""
    return 0 if column in WEATHER else _CHEAP_GAP


def _is_by_row(column: str) -> bool:
    """Whether what an hour's value is depends on the row that looks at it: an external series."""
    return "@" in column and column != TOTAL


def _quoted(names: Iterable[str]) -> Sequence[str]:
    return [f'"{name}"' for name in names]


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)
