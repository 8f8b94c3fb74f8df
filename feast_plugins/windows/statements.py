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

from feast.types import Float64, Int64, PrimitiveFeastType, String

from feast_plugins.windows import sources
from feast_plugins.windows.declarations import (
    DAY,
    HOUR,
    READING,
    TOTAL,
    WEATHER,
    WEATHER_AGE,
    AssetAttribute,
    Calendar,
    Declaration,
    DegreeHours,
    Difference,
    Expression,
    Holiday,
    Lag,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    Weather,
    Window,
    _OfColumn,
    series_of,
)
from feast_plugins.windows.holiday_days import YEARS, days
from feast_plugins.windows.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Changes when what this module makes of a declaration does, so that `feast apply` makes it anew.
_VERSION: Final = 9
#: Begins the statement of a view that this version made.
MARK: Final = f"-- feast_plugins.windows {_VERSION}\n"
#: Hours between two ranges that are cheaper to read than a second look into the index.
_CHEAP_GAP: Final = 48
#: Times of day that are read by themselves.
_MOST_PROBES: Final = 8
_TYPES: Final[Mapping[PrimitiveFeastType, str]] = {
    Float64: "double precision",
    Int64: "bigint",
    String: "text",
}
_WINDOW: Final = "ago BETWEEN {nearest} AND {farthest}"
_STATE: Final = "stats_merge(state ORDER BY ago DESC) FILTER (WHERE {when})"
_FUNCTIONS: Final[Mapping[str, str]] = {
    "mean": f"float8_avg({_STATE})",
    "std": f"float8_stddev_samp({_STATE})",
    "min": "min(least) FILTER (WHERE {when})",
    "max": "max(greatest) FILTER (WHERE {when})",
    # of nothing it is unknown, not 0
    "sum": f"CASE WHEN ({_STATE})[1] > 0 THEN ({_STATE})[2]{{in_hours}} END",
    "count": "coalesce(sum(readings) FILTER (WHERE {when}), 0)::bigint",
    "first": "(array_agg(value ORDER BY ago DESC) FILTER (WHERE value IS NOT NULL AND {when}))[1]",
    "last": "(array_agg(value ORDER BY ago) FILTER (WHERE value IS NOT NULL AND {when}))[1]",
}
#: The same over the rows of a window.
_GRID_STATE: Final = "(stats_merge(state) OVER {frame})"
_GRID_VALUES: Final = "array_remove(array_agg(value) OVER {frame}, NULL)"
_GRID_FUNCTIONS: Final[Mapping[str, str]] = {
    "mean": f"float8_avg({_GRID_STATE})",
    "std": f"float8_stddev_samp({_GRID_STATE})",
    "min": "min(least) OVER {frame}",
    "max": "max(greatest) OVER {frame}",
    "sum": f"CASE WHEN {_GRID_STATE}[1] > 0 THEN {_GRID_STATE}[2]{{in_hours}} END",
    "count": "coalesce(sum(readings) OVER {frame}, 0)::bigint",
    "first": f"({_GRID_VALUES})[1]",
    "last": f"({_GRID_VALUES})[cardinality({_GRID_VALUES})]",
}
_FRAME: Final = "(ORDER BY hour ROWS BETWEEN {farthest} PRECEDING AND {nearest} PRECEDING)"
# Steps of the same number in a day, or in a week, also before 1970.
_FRAME_OF_SAME_HOUR: Final = (
    "(PARTITION BY mod(mod({number}, {step}) + {step}, {step})"
    " ORDER BY hour ROWS BETWEEN {days} PRECEDING AND 1 PRECEDING)"
)
# Empty where a double cannot hold the result: the server would raise, and nobody's rows would be stored.
_DIFFERENCE: Final = "CASE WHEN abs({left}) <= 8e307 AND abs({right}) <= 8e307 THEN {left} - {right} END"
_RATIO: Final = (
    # NaN is greater than all others
    "CASE WHEN {right} = 0 OR abs({left}) > 1.79e308 OR abs({right}) > 1.79e308 THEN NULL WHEN {left} = 0 THEN 0"
    " WHEN ln(abs({left}::double precision)) - ln(abs({right}::double precision)) BETWEEN -744 AND 709"
    " THEN {left}::double precision / {right} END"
)
#: Steps that a window looks back to, for each row of a range from which on it is computed by windows over its steps:
#: they are made for the steps before the range, too.
_WINDOW_STEPS_PER_ROW: Final = 12
_CALENDAR: Final[Mapping[str, str]] = {
    "hour_of_day": "extract(hour FROM local.time)::bigint",
    "day_of_week": "extract(isodow FROM local.time)::bigint - 1",
    "day_of_month": "extract(day FROM local.time)::bigint",
    "day_of_year": "extract(doy FROM local.time)::bigint",
    "month": "extract(month FROM local.time)::bigint",
    "is_weekend": "(extract(isodow FROM local.time) >= 6)::integer::bigint",
    "local_time": "extract(epoch FROM local.time)::bigint",
}
_READINGS: Final = """\
SELECT {ago} AS ago, meaning.value,
    meaning.least_value AS least, meaning.greatest_value AS greatest, meaning.stats AS state,
    hourly.sample_count AS readings, hourly.last_ingested_at AS ingested_at
FROM (
{readings}
) AS hourly
LEFT JOIN LATERAL {meaning} AS meaning ON true"""
_READINGS_BOUNDS: Final = "AND hourly.hour >= %3$L::timestamptz AND hourly.hour < %4$L::timestamptz"
# Of each step the newest value that was available when it began.
_WEATHER: Final = """\
SELECT hours.ago, found.value, found.value AS least, found.value AS greatest,
    CASE WHEN found.value IS NOT NULL THEN ARRAY[1, found.value, 0] END AS state,
    (found.value IS NOT NULL)::integer::bigint AS readings, found.ingested_at
FROM generate_series({nearest}, {farthest}) AS hours (ago)
LEFT JOIN LATERAL (
    SELECT weather.{column} AS value, weather.ingested_at
    FROM public.weather_features AS weather
    WHERE weather.tenant_id = k.tenant_id AND weather.asset_id = k.weather_asset
        AND weather."timestamp" <= k.hour - hours.ago * INTERVAL '{step}'
        AND weather."timestamp" > k.hour - hours.ago * INTERVAL '{step}' - INTERVAL '{age} hours'
        AND weather.available_at <= k.hour - hours.ago * INTERVAL '{step}'
        AND weather.{column} IS NOT NULL
        {bounds}
    ORDER BY weather."timestamp" DESC, weather.available_at DESC
    LIMIT 1
) AS found ON true"""
# Weather of one hour. Most rows have every variable, so only where the newest one does not are the others read.
_WEATHER_OF_HOUR: Final = """\
CROSS JOIN LATERAL (
SELECT {values}, greatest(newest.ingested_at, earlier.ingested_at) AS ingested_at
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT {columns}, weather.ingested_at
    FROM public.weather_features AS weather
    WHERE {conditions}
    ORDER BY weather."timestamp" DESC, weather.available_at DESC
    LIMIT 1
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT {earlier}, max(weather.ingested_at) AS ingested_at
    FROM public.weather_features AS weather
    WHERE {conditions}
        AND ({missing})
) AS earlier ON true
) AS weather"""
_WEATHER_OF_HOUR_CONDITIONS: Final = """\
weather.tenant_id = k.tenant_id AND weather.asset_id = k.weather_asset
        AND weather."timestamp" <= {hour} AND weather."timestamp" > {hour} - INTERVAL '{age} hours'
        AND weather.available_at <= {hour}
        {bounds}"""
_EARLIER: Final = """\
(array_agg(weather.{column} ORDER BY weather."timestamp" DESC, weather.available_at DESC)
        FILTER (WHERE weather.{column} IS NOT NULL))[1] AS {column}"""
# The same columns for every step of a grid without gaps: those that rows look back to. `hour` is that of the first row
# that looks at it.
_READINGS_GRID: Final = """\
SELECT {first_row} AS hour, meaning.value, meaning.least_value AS least,
    meaning.greatest_value AS greatest, meaning.stats AS state, hourly.sample_count AS readings,
    hourly.last_ingested_at AS ingested_at
FROM {grid} AS grid (hour)
LEFT JOIN (
{readings}
) AS hourly ON hourly.hour = grid.hour
LEFT JOIN LATERAL {meaning} AS meaning ON hourly.hour IS NOT NULL"""
_WEATHER_GRID: Final = """\
SELECT {first_row} AS hour, found.value, found.value AS least, found.value AS greatest,
    CASE WHEN found.value IS NOT NULL THEN ARRAY[1, found.value, 0] END AS state,
    (found.value IS NOT NULL)::integer::bigint AS readings
FROM {grid} AS grid (hour)
LEFT JOIN LATERAL (
    SELECT weather.{column} AS value
    FROM public.weather_features AS weather
    WHERE weather.tenant_id = k.tenant_id AND weather.asset_id = k.weather_asset
        AND weather."timestamp" <= grid.hour
        AND weather."timestamp" > grid.hour - INTERVAL '{age} hours'
        AND weather.available_at <= grid.hour
        AND weather.{column} IS NOT NULL
        {bounds}
    ORDER BY weather."timestamp" DESC, weather.available_at DESC
    LIMIT 1
) AS found ON true"""
_WEATHER_BOUNDS: Final = (
    'AND weather."timestamp" >= %3$L::timestamptz AND weather."timestamp" <= %2$L::timestamptz'
)
_KEYS: Final = """\
SELECT spans.tenant_id, spans.asset_id, hours.hour,
    coalesce(assets.weather_asset_id, spans.asset_id) AS weather_asset,
    {asset_columns}
FROM public.asset_spans AS spans
LEFT JOIN public.declared_spans AS known
    ON known.view_name = '{view}' AND known.tenant_id = spans.tenant_id AND known.asset_id = spans.asset_id
LEFT JOIN public.assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
CROSS JOIN LATERAL unstored_rows({periods}, coalesce(known.stored, '{{}}')) AS missing
{rows}
WHERE hours.hour <= now()
    -- of most assets every row is stored, which this tells sooner
    AND (known.stored IS NULL OR NOT known.stored @> tstzrange(
        lower(spans.periods) + INTERVAL '1 hour',
        greatest(
            lower(spans.periods) + INTERVAL '1 hour',
            least(upper({periods}) - INTERVAL '143 hours', {until})
        )
    ))"""
# An index range scan, where a series would be of all history.
_HOURS: Final = (
    "JOIN public.feature_hours AS hours ON hours.hour >= missing.first_hour AND hours.hour < missing.end_hour"
)
_ROWS: Final = """\
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS k
CROSS JOIN LATERAL {rows} AS hours (hour)"""
# The register is joined to each part by itself: what the planner expects of rows that are not stored, which are few, has no
# part in how it reads the others.
_VIEW: Final = """\
CREATE OR REPLACE VIEW public.{view} AS
SELECT rows.hour AS event_timestamp, rows.tenant_id, rows.asset_id, rows.created_timestamp, {features}
FROM public.{view}_stored AS rows
{register}
WHERE rows.superseded_at IS NULL{present}
UNION ALL
SELECT rows.hour, rows.tenant_id, rows.asset_id, rows.created_timestamp, {features}
FROM (
SELECT k.hour, k.tenant_id, k.asset_id, {computed}, coalesce(greatest({ingested}), k.hour) AS created_timestamp
FROM (
{keys}
) AS k
{sources}
) AS rows
{register}"""
_VERSIONS: Final = """\
CREATE OR REPLACE VIEW public.{view}_versions AS
SELECT rows.hour AS event_timestamp, rows.tenant_id, rows.asset_id, rows.created_timestamp,
    -- what a feature meant before was known until the declaration changed
    coalesce(rows.superseded_at, CASE WHEN earlier.ended_at IS NOT NULL THEN
        greatest(earlier.ended_at, rows.created_timestamp + INTERVAL '1 microsecond')
    END) AS superseded_at, {features}
FROM public.{view}_stored AS rows
LEFT JOIN public.declared_generations AS earlier
    ON earlier.view_name = '{view}' AND earlier.generation = rows.generation
{register}"""
_REGISTER: Final = """\
LEFT JOIN public.assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT rows.hour AT TIME ZONE coalesce(assets.timezone, 'UTC') AS time) AS local"""
_TABLE: Final = """\
CREATE TABLE public.{view}_stored (
    hour              timestamptz NOT NULL,
    tenant_id         text NOT NULL,
    asset_id          text NOT NULL,
    generation        integer NOT NULL,
    {columns},
    created_timestamp timestamptz NOT NULL,
    superseded_at     timestamptz CHECK (superseded_at > created_timestamp),
    PRIMARY KEY (tenant_id, asset_id, hour, created_timestamp)
);
SELECT create_hypertable('public.{view}_stored', by_range('hour', INTERVAL '30 days'), create_default_indexes => false);
ALTER TABLE public.{view}_stored SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'tenant_id, asset_id',
    timescaledb.orderby = 'hour, created_timestamp'
);
CALL add_columnstore_policy('public.{view}_stored', after => INTERVAL '90 days');
CREATE INDEX ON public.{view}_stored (hour) WHERE superseded_at IS NULL;
CREATE INDEX ON public.{view}_stored (created_timestamp) WHERE superseded_at IS NULL"""
# $1 ranges, $2 the stamp, $3 the generation, $4 the one since which each feature means what it does; %1$L and %2$L hold
# all of the rows, %3$L and %4$L the hours that they look at. The caller ends the versions that are replaced. Rows of an
# earlier generation may be there beside newer ones.
_COMPUTE: Final = """\
WITH batch AS MATERIALIZED (
    SELECT ranges.tenant_id, ranges.asset_id, ranges.first_hour, ranges.end_hour, ranges.number,
        coalesce(assets.weather_asset_id, ranges.asset_id) AS weather_asset,
        {asset_columns}
    FROM unnest($1::public.declared_refresh_ranges[]) WITH ORDINALITY
        AS ranges (view_name, tenant_id, asset_id, first_hour, end_hour, plan_id, place, aggregated, number)
    LEFT JOIN public.assets ON assets.tenant_id = ranges.tenant_id AND assets.asset_id = ranges.asset_id
),
known AS MATERIALIZED (
    SELECT present.*
    FROM batch
    CROSS JOIN LATERAL (
        SELECT DISTINCT ON (versions.hour) * FROM public.{view}_stored AS versions
        WHERE versions.tenant_id = batch.tenant_id AND versions.asset_id = batch.asset_id
            AND versions.hour >= batch.first_hour AND versions.hour < batch.end_hour
            AND versions.hour >= %1$L AND versions.hour < %2$L AND versions.superseded_at IS NULL
        ORDER BY versions.hour, versions.generation DESC
    ) AS present
),
{totals}
computed AS MATERIALIZED (
{computed}
),
fresh AS (
    SELECT computed.tenant_id, computed.asset_id, computed.hour, {remembered}
    FROM computed
    LEFT JOIN known ON known.tenant_id = computed.tenant_id AND known.asset_id = computed.asset_id
        AND known.hour = computed.hour
),
differing AS MATERIALIZED (
    SELECT fresh.*, known.hour IS NOT NULL AS replaces
    FROM fresh
    LEFT JOIN known ON known.tenant_id = fresh.tenant_id AND known.asset_id = fresh.asset_id AND known.hour = fresh.hour
    WHERE known.hour IS NULL OR known.generation < $3 OR ({known}) IS DISTINCT FROM ({fresh})
),
stored AS (
    INSERT INTO public.{view}_stored (hour, tenant_id, asset_id, generation, {names}, created_timestamp)
    SELECT hour, tenant_id, asset_id, $3, {names}, $2 FROM differing
)
SELECT count(*), array_agg(ROW (tenant_id, asset_id, hour)::public.feature_key) FILTER (WHERE replaces) {gone}FROM differing"""
_COMPUTED: Final = """\
    SELECT k.tenant_id, k.asset_id, k.hour, {computed}
    FROM (
        SELECT k.*, hours.hour
        FROM batch AS k
        CROSS JOIN LATERAL {rows} AS hours (hour)
        WHERE k.end_hour < k.first_hour + {long}
    ) AS k
    {sources}
    UNION ALL
    SELECT k.tenant_id, k.asset_id, {hour}, {computed_long}
    FROM batch AS k
    {grids}
    WHERE k.end_hour >= k.first_hour + {long}"""
# Columns that were computed elsewhere: $5 the number of each row's range, $6 its time, then its features.
_GIVEN: Final = """\
    SELECT batch.tenant_id, batch.asset_id, given.hour, {given}
    FROM unnest($5::bigint[], $6::timestamptz[], {arrays}) AS given (number, hour, {names})
    JOIN batch ON batch.number = given.number"""
_INSERT: Final = """\
WITH batch AS (
    SELECT tenant_id, asset_id, number FROM unnest($1::public.declared_refresh_ranges[]) WITH ORDINALITY
        AS ranges (view_name, tenant_id, asset_id, first_hour, end_hour, plan_id, place, aggregated, number)
)
INSERT INTO public.{view}_stored (hour, tenant_id, asset_id, generation, {names}, created_timestamp)
SELECT hour, tenant_id, asset_id, $3, {names}, $2 FROM (
{computed}
) AS computed
WHERE $4::jsonb IS NOT NULL"""
# Rows of days that began at other times, before the time zone of their asset was changed.
_GONE: Final = """|| (
    SELECT array_agg(ROW (known.tenant_id, known.asset_id, known.hour)::public.feature_key)
    FROM known
    LEFT JOIN fresh ON fresh.tenant_id = known.tenant_id AND fresh.asset_id = known.asset_id AND fresh.hour = known.hour
    WHERE fresh.hour IS NULL AND known.generation = $3
) """


def sql_type(of: Expression) -> str:
    """PostgreSQL's type of a stored feature."""
    return _TYPES[of.dtype]


@dataclass(frozen=True)
class _Grid:
    """Steps of one column that rows of a range look back to."""

    name: str
    column: str
    leaves: list[_OfColumn]
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
        return _TABLE.format(view=self.declaration.name, columns=columns)

    def view(self, generation: int) -> str:
        """Creates the view of present rows."""
        stored = self.declaration.stored
        return _VIEW.format(
            view=self.declaration.name,
            features=self._features(),
            # without a comparison that no statistics know of where there is one generation
            present=f" AND rows.generation = {generation}" if generation > 1 else "",
            computed=_list(f'{self._kept(each)} AS "{name}"' for name, each in stored.items()),
            ingested=_list(f"{name}.ingested_at" for name in dict.fromkeys(map(_source, self._leaves()))),
            keys=self._keys,
            sources=self._sources(bounded=False),
            register=_REGISTER,
        )

    @property
    def versions(self) -> str:
        """Creates the view of every version of every row."""
        return _VERSIONS.format(
            view=self.declaration.name,
            features=self._features(),
            register=_REGISTER,
        )

    @property
    def compute(self) -> str:
        """Computes ranges of rows and stores those that differ, see compute_declared_ranges()."""
        stored = self.declaration.stored
        grids = self._grids()
        hour = f"{grids[0].name}.hour"
        of_grid = {leaf: grid.name for grid in grids for leaf in grid.leaves}
        computed = _COMPUTED.format(
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
        return _INSERT.format(view=self.declaration.name, names=names, computed=self._given)

    @property
    def _given(self) -> str:
        stored = self.declaration.stored
        return _GIVEN.format(
            given=_list(f"given.{name}" for name in _quoted(stored)),
            arrays=_list(f"${at}::{sql_type(each)}[]" for at, each in enumerate(stored.values(), start=7)),
            names=_list(_quoted(stored)),
        )

    def _store(self, computed: str, totals: str) -> str:
        stored = self.declaration.stored
        names = list(_quoted(stored))
        return _COMPUTE.format(
            view=self.declaration.name,
            asset_columns=sources.ASSET_COLUMNS,
            totals=totals,
            computed=computed,
            gone=_GONE if self.declaration.step == DAY else "",
            remembered=_list(_remembered(name, each, self._steps) for name, each in stored.items()),
            # a row of one column would be no row
            known=_list(["1", *(f"known.{name}" for name in names)]),
            fresh=_list(["1", *(f"fresh.{name}" for name in names)]),
            names=_list(names),
        )

    @property
    def _steps(self) -> Steps:
        return Steps(self.declaration.step)

    @property
    def _keys(self) -> str:
        periods = "spans.periods"
        rows, until = _HOURS, "time_bucket(INTERVAL '1 hour', now()) + INTERVAL '1 hour'"
        if self.declaration.step != HOUR:
            rows = _ROWS.format(rows=self._steps.rows("missing.first_hour", "missing.end_hour"))
            until = f"declared_rows_until(INTERVAL '{self._steps.interval}', assets.timezone)"
        if self.declaration.step == DAY:
            periods = f"rows_of_step(spans.periods, INTERVAL '{self._steps.interval}')"
        return _KEYS.format(
            view=self.declaration.name,
            asset_columns=sources.ASSET_COLUMNS,
            rows=rows,
            until=until,
            periods=periods,
        )

    def _features(self) -> str:
        return _list(
            f'rows."{name}"' if each.is_stored else f'{_of_register(each)} AS "{name}"'
            for name, each in self.declaration.features.items()
        )

    def _leaves(self) -> list[_OfColumn]:
        found = [leaf for each in self.declaration.stored.values() for leaf in each.leaves()]
        return [leaf for leaf in dict.fromkeys(found) if isinstance(leaf, _OfColumn)]

    def _series(self) -> dict[str, list[_OfColumn]]:
        """Expressions over hours before the row, by the column they read; the readings first."""
        found: dict[str, list[_OfColumn]] = {}
        for leaf in self._leaves():
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

    def _row(self, column: str, leaves: list[_OfColumn], *, bounded: bool, hour: str = "k.hour") -> str:
        """Lateral query of the aggregates over one column, in a row named like it."""
        ranges = merged((each for leaf in leaves for each in _probes(leaf)), gap=gap(column))
        parts = [self._looked_at(column, near, far, bounded=bounded, hour=hour) for near, far in ranges]
        columns = _list(f"{_aggregate(leaf)} AS {self._name(leaf)}" for leaf in leaves)
        series = "\nUNION ALL\n".join(parts)
        return f"CROSS JOIN LATERAL (\nSELECT {columns}, max(ingested_at) AS ingested_at\nFROM (\n{series}\nORDER BY ago DESC\n) AS series\n) AS {_source(leaves[0])}"

    def _batch_totals(self) -> str:
        """The totals of groups that a batch of rows uses, where any feature is of them."""
        offsets = [leaf.offsets()[1] for leaf in self._leaves() if leaf.column == TOTAL]
        if not offsets:
            return ""
        return sources.BATCH_TOTALS.format(
            farthest=self._steps.many(max(offsets)),
            totals=self._totals("k.first_hour", "k.end_hour", _READINGS_BOUNDS),
        )

    def _totals(self, first: str, end: str, bounds: str) -> str:
        """Query of the totals of a group in [first, end)."""
        steps = self._steps
        readings = _READINGS_GRID.format(
            first_row="grid.hour",
            grid=steps.rows("k.first_hour", "k.end_hour"),
            readings=steps.readings("k.first_hour", "k.end_hour", bounds),
            meaning=steps.meaning,
        )
        return sources.totals(readings, first_hour=first, end_hour=end)

    def _looked_at(self, column: str, nearest: int, farthest: int, *, bounded: bool, hour: str) -> str:
        """Query of a column's steps that a row looks back to; `bounded` in the statement of a refresh."""
        steps = self._steps
        first, end = steps.before(hour, farthest), steps.before(hour, nearest - 1)
        if column == READING:
            readings = steps.readings(first, end, _READINGS_BOUNDS if bounded else "")
            return _READINGS.format(ago=steps.ago("hourly.hour"), readings=readings, meaning=steps.meaning)
        if column == TOTAL:
            totals = (
                sources.OF_BATCH.format(first_hour=first, end_hour=end)
                if bounded
                else self._totals(first, end, "")
            )
            return sources.TOTAL.format(ago=steps.ago("total.hour"), totals=totals)
        if column in WEATHER:
            return _WEATHER.format(
                column=column,
                nearest=nearest,
                farthest=farthest,
                step=steps.interval,
                age=WEATHER_AGE,
                bounds=_WEATHER_BOUNDS if bounded else "",
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
        leaves = [leaf for leaf in self._leaves() if isinstance(leaf, Weather)]
        if not leaves:
            return []
        columns = [leaf.column for leaf in leaves]
        conditions = _WEATHER_OF_HOUR_CONDITIONS.format(
            hour=hour, age=WEATHER_AGE, bounds=_WEATHER_BOUNDS if bounded else ""
        )
        values = (
            f"coalesce(newest.{leaf.column}, earlier.{leaf.column}) AS {self._name(leaf)}" for leaf in leaves
        )
        return [
            _WEATHER_OF_HOUR.format(
                values=_list(values),
                columns=_list(f"weather.{column}" for column in columns),
                earlier=_list(_EARLIER.format(column=column) for column in columns),
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
            readings = steps.readings(first, end, _READINGS_BOUNDS)
            series = _READINGS_GRID.format(**of_grid, readings=readings, meaning=steps.meaning)
        elif grid.column == TOTAL:
            of_batch = sources.OF_BATCH.format(first_hour=first, end_hour=end)
            series = sources.TOTAL_GRID.format(**of_grid, totals=of_batch)
        else:
            series = _WEATHER_GRID.format(
                **of_grid, column=grid.column, age=WEATHER_AGE, bounds=_WEATHER_BOUNDS
            )
        columns = _list(f"{_window(leaf, grid.nearest)} AS {self._name(leaf)}" for leaf in grid.leaves)
        windows = f"SELECT hour, {columns}\nFROM (\n{series}\n) AS series"
        rows = f"SELECT * FROM (\n{windows}\n) AS windows WHERE hour >= k.first_hour"
        if hour == f"{grid.name}.hour":
            return f"CROSS JOIN LATERAL (\n{rows}\n) AS {grid.name}"
        return f"JOIN LATERAL (\n{rows}\n) AS {grid.name} ON {grid.name}.hour = {hour}"

    def _name(self, leaf: _OfColumn) -> str:
        return f"f{self._leaves().index(leaf)}"

    def _value(self, of: Expression, grids: Mapping[_OfColumn, str]) -> str:
        if isinstance(of, _OfColumn):
            return f"{grids.get(of, _source(of))}.{self._name(of)}"
        left, right = (self._value(leaf, grids) for leaf in of.leaves())
        if isinstance(of, Difference):
            return _DIFFERENCE.format(left=left, right=right)
        assert isinstance(of, Ratio)  # noqa: S101  # no other is stored
        return _RATIO.format(left=left, right=right)

    def _kept(
        self, of: Expression, hour: str = "k.hour", grids: Mapping[_OfColumn, str] = MappingProxyType({})
    ) -> str:
        """Value of an expression; empty where weather that it merges may be gone."""
        value = self._value(of, grids)
        farthest = weather_window(of)
        if farthest is None:
            return value
        return f"CASE WHEN {hour} >= weather_kept_since() + {self._steps.many(farthest)} THEN {value} END"


def _source(leaf: _OfColumn) -> str:
    """Name of the lateral query that a row has an expression from."""
    if isinstance(leaf, Weather):
        return "weather"
    # a name has 63 bytes, and others no @
    return leaf.column.replace("@", "$", 1)[:55] if "@" in leaf.column else leaf.column


def _probes(leaf: _OfColumn) -> list[tuple[int, int]]:
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


def weather_window(of: Expression) -> int | None:
    """Farthest hour of weather that an expression merges with others; None: it merges none."""
    merges = [
        leaf.offsets()[1]
        for leaf in of.leaves()
        if isinstance(leaf, Window | SameHour | DegreeHours) and leaf.column in WEATHER
    ]
    return max(merges, default=None)


def remembered_steps(of: Expression) -> int | None:
    """How far a feature of the weather alone looks back, whose stored values stay where that weather is gone.

    None: it is of something else, too.
    """
    leaves = [leaf for leaf in of.leaves() if isinstance(leaf, _OfColumn)]
    if not all(leaf.column in WEATHER for leaf in leaves):
        return None
    return max(leaf.offsets()[1] for leaf in leaves)


def _remembered(name: str, of: Expression, steps: Steps) -> str:
    """What of a known row stays where the weather it was made of is gone: features of the weather alone."""
    farthest = remembered_steps(of)
    if farthest is None:
        return f'computed."{name}"'
    return (
        f"""CASE WHEN computed.hour < weather_kept_since() + {steps.many(farthest)} """
        f"""AND known.generation >= ($4 ->> '{name}')::integer """
        f'THEN coalesce(computed."{name}", known."{name}") ELSE computed."{name}" END AS "{name}"'
    )


def _aggregate(of: _OfColumn) -> str:
    nearest, farthest = of.offsets()
    if isinstance(of, Lag | Series):
        return f"min(value) FILTER (WHERE ago = {farthest})"
    when = _WINDOW.format(nearest=nearest, farthest=farthest)
    if isinstance(of, DegreeHours):
        return (
            f"CASE WHEN count(value) FILTER (WHERE {when}) = {farthest} "
            f"THEN sum(greatest({_degrees(of)}, 0) ORDER BY ago DESC) FILTER (WHERE {when}){_in_hours(of)} END"
        )
    assert isinstance(of, Window | SameHour)  # noqa: S101  # there are no others
    if isinstance(of, SameHour):
        when += f" AND mod(ago, {of.step}) = 0"
    return _FUNCTIONS[of.function].format(when=when, in_hours=_in_hours(of))


def _window(of: _OfColumn, shift: int) -> str:
    """The same as `_aggregate` over the rows of a grid, whose times are those of rows `shift` steps later."""
    nearest, farthest = of.offsets()
    if isinstance(of, Lag):
        return f"lag(value, {farthest - shift}) OVER (ORDER BY hour)"
    frame = _FRAME.format(nearest=nearest - shift, farthest=farthest - shift)
    if isinstance(of, DegreeHours):
        return (
            f"CASE WHEN count(value) OVER {frame} = {farthest} "
            f"THEN sum(greatest({_degrees(of)}, 0)) OVER {frame}{_in_hours(of)} END"
        )
    assert isinstance(of, Window | SameHour)  # noqa: S101  # there are no others
    if isinstance(of, SameHour):
        number = Steps(of.slide_interval).number("hour")
        frame = _FRAME_OF_SAME_HOUR.format(number=number, step=of.step, days=of.days)
    return _GRID_FUNCTIONS[of.function].format(frame=frame, in_hours=_in_hours(of))


def _in_hours(of: _OfColumn) -> str:
    """Sums of rates are over hours, whatever the step."""
    if of.slide_interval == HOUR:
        return ""
    hours = repr(of.slide_interval / HOUR)
    if of.column in WEATHER:
        return f" * {hours}"
    # members of a group have the same unit as the asset
    return (
        f" * CASE WHEN k.is_amount IS NULL THEN 1 ELSE {hours} END" if of.column in {READING, TOTAL} else ""
    )


def _degrees(of: DegreeHours) -> str:
    return f"{of.base!r} - value" if of.direction == "heating" else f"value - {of.base!r}"


def _of_register(of: Expression) -> str:
    if isinstance(of, Calendar):
        return _CALENDAR[of.part]
    if isinstance(of, SunPosition):
        return f"sun_position('{of.part}', rows.hour, assets.latitude, assets.longitude)"
    if isinstance(of, AssetAttribute):
        return f'assets."{of.column}"'
    assert isinstance(of, Holiday)  # noqa: S101  # there are no others
    dates = ",".join(f"{day:%Y-%m-%d}" for day in days(of.country, of.subdivision))
    return (
        f"CASE WHEN extract(year FROM local.time) BETWEEN {YEARS[0]} AND {YEARS[-1]} "
        f"THEN (local.time::date = ANY ('{{{dates}}}'::date[]))::integer::bigint END"
    )


def merged(ranges: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Ranges in order; those with a gap of at most so many hours as one."""
    merged: list[tuple[int, int]] = []
    for nearest, farthest in sorted(ranges):
        if merged and nearest <= merged[-1][1] + 1 + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], farthest))
        else:
            merged.append((nearest, farthest))
    return merged


def _quoted(names: Iterable[str]) -> Sequence[str]:
    return [f'"{name}"' for name in names]


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)
