# ruff: noqa: E501 - SQL as it is sent
"""Templates of a declared view's SQL, which statements.py and expressions.py fill.

Each source of values has the same columns: steps `ago`, `value`, `least`, `greatest`, `state` {weight, sum, squares},
`readings` and `ingested_at`. What a source of external series or of totals is: sources.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW: Final = "ago BETWEEN {nearest} AND {farthest}"


def _functions(state: str, rows: str, *, first: str, last: str, order: str = "") -> Mapping[str, str]:
    """Aggregates by name, over `rows` in the order of time; `state` is what their states are merged to."""
    return {
        "mean": f"float8_avg{state}",
        "std": f"float8_stddev_samp{state}",
        "min": f"min(least) {rows}",
        "max": f"max(greatest) {rows}",
        # of nothing it is unknown, not 0
        "sum": f"CASE WHEN {state}[1] > 0 THEN {state}[2]{{in_hours}} END",
        "count": f"coalesce(sum(readings) {rows}, 0)::bigint",
        "first": first,
        "last": last,
        "quantile": f"value_quantile(array_agg(value) {rows}, {{quantile}})",
        "degree_hours": (
            f"CASE WHEN count(value) {rows} = {{steps}} "
            f"THEN sum(greatest({{degrees}}, 0){order}) {rows}{{in_hours}} END"
        ),
    }


FUNCTIONS: Final = _functions(
    "(stats_merge(state ORDER BY ago DESC) FILTER (WHERE {when}))",
    "FILTER (WHERE {when})",
    first="(array_agg(value ORDER BY ago DESC) FILTER (WHERE value IS NOT NULL AND {when}))[1]",
    last="(array_agg(value ORDER BY ago) FILTER (WHERE value IS NOT NULL AND {when}))[1]",
    order=" ORDER BY ago DESC",
)
_GRID_VALUES: Final = "(array_remove(array_agg(value) OVER {frame}, NULL))"
#: The same over the rows of a window.
GRID_FUNCTIONS: Final = _functions(
    "(stats_merge(state) OVER {frame})",
    "OVER {frame}",
    first=f"{_GRID_VALUES}[1]",
    last=f"{_GRID_VALUES}[cardinality{_GRID_VALUES}]",
)
FRAME: Final = "(ORDER BY hour ROWS BETWEEN {farthest} PRECEDING AND {nearest} PRECEDING)"
# Steps of the same number in a day, or in a week, also before 1970.
FRAME_OF_SAME_HOUR: Final = (
    "(PARTITION BY mod(mod({number}, {step}) + {step}, {step})"
    " ORDER BY hour ROWS BETWEEN {days} PRECEDING AND 1 PRECEDING)"
)
# Empty where a double cannot hold the result: the server would raise, and nobody's rows would be stored.
DIFFERENCE: Final = "CASE WHEN abs({left}) <= 8e307 AND abs({right}) <= 8e307 THEN {left} - {right} END"
RATIO: Final = (
    # NaN is greater than all others
    "CASE WHEN {right} = 0 OR abs({left}) > 1.79e308 OR abs({right}) > 1.79e308 THEN NULL WHEN {left} = 0 THEN 0"
    " WHEN ln(abs({left}::double precision)) - ln(abs({right}::double precision)) BETWEEN -744 AND 709"
    " THEN {left}::double precision / {right} END"
)
CALENDAR: Final[Mapping[str, str]] = {
    "hour_of_day": "extract(hour FROM local.time)::bigint",
    "day_of_week": "extract(isodow FROM local.time)::bigint - 1",
    "day_of_month": "extract(day FROM local.time)::bigint",
    "day_of_year": "extract(doy FROM local.time)::bigint",
    "month": "extract(month FROM local.time)::bigint",
    "is_weekend": "(extract(isodow FROM local.time) >= 6)::integer::bigint",
    "local_time": "extract(epoch FROM local.time)::bigint",
}
# One query of the aggregate, whatever the number of ranges: to plan it takes as long as to run it for a hundred rows. Not
# pulled up, so that each range is an index scan.
READINGS: Final = """\
SELECT {ago} AS ago, meaning.value,
    meaning.least_value AS least, meaning.greatest_value AS greatest, meaning.stats AS state,
    hourly.sample_count AS readings, hourly.last_ingested_at AS ingested_at
FROM (VALUES {ranges}) AS ranges (first, until)
CROSS JOIN LATERAL (
{readings}
OFFSET 0
) AS hourly
LEFT JOIN LATERAL {meaning} AS meaning ON true"""
READINGS_BOUNDS: Final = "AND hourly.hour >= %3$L::timestamptz AND hourly.hour < %4$L::timestamptz"
# Of each step the newest value that was available when it began.
WEATHER: Final = """\
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
WEATHER_OF_HOUR: Final = """\
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
WEATHER_OF_HOUR_CONDITIONS: Final = """\
weather.tenant_id = k.tenant_id AND weather.asset_id = k.weather_asset
        AND weather."timestamp" <= {hour} AND weather."timestamp" > {hour} - INTERVAL '{age} hours'
        AND weather.available_at <= {hour}
        {bounds}"""
EARLIER: Final = """\
(array_agg(weather.{column} ORDER BY weather."timestamp" DESC, weather.available_at DESC)
        FILTER (WHERE weather.{column} IS NOT NULL))[1] AS {column}"""
# The same columns for every step of a grid without gaps: those that rows look back to. `hour` is that of the first row
# that looks at it.
READINGS_GRID: Final = """\
SELECT {first_row} AS hour, meaning.value, meaning.least_value AS least,
    meaning.greatest_value AS greatest, meaning.stats AS state, hourly.sample_count AS readings,
    hourly.last_ingested_at AS ingested_at
FROM {grid} AS grid (hour)
LEFT JOIN (
{readings}
) AS hourly ON hourly.hour = grid.hour
LEFT JOIN LATERAL {meaning} AS meaning ON hourly.hour IS NOT NULL"""
WEATHER_GRID: Final = """\
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
WEATHER_BOUNDS: Final = (
    'AND weather."timestamp" >= %3$L::timestamptz AND weather."timestamp" <= %2$L::timestamptz'
)
KEYS: Final = """\
SELECT spans.tenant_id, spans.asset_id, hours.hour,
    coalesce(assets.weather_asset_id, spans.asset_id) AS weather_asset,
    {asset_columns}
FROM public.asset_spans AS spans
LEFT JOIN public.declared_spans AS known
    ON known.view_name = '{view}' AND known.tenant_id = spans.tenant_id AND known.asset_id = spans.asset_id{present}
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
# A transaction that sees the database as it was before the view changed sees which rows were stored of the earlier one.
PRESENT: Final = "\n    AND (SELECT views.generation FROM public.declared_views AS views WHERE views.view_name = '{view}') = {generation}"
# An index range scan, where a series would be of all history.
HOURS: Final = (
    "JOIN public.feature_hours AS hours ON hours.hour >= missing.first_hour AND hours.hour < missing.end_hour"
)
ROWS: Final = """\
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS k
CROSS JOIN LATERAL {rows} AS hours (hour)"""
# The register is joined to each part by itself: what the planner expects of rows that are not stored, which are few, has no
# part in how it reads the others.
VIEW: Final = """\
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
VERSIONS: Final = """\
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
REGISTER: Final = """\
LEFT JOIN public.assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT rows.hour AT TIME ZONE coalesce(assets.timezone, 'UTC') AS time) AS local"""
TABLE: Final = """\
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
COMPUTE: Final = """\
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
# compute_declared_ranges() cuts out what is between the comments where every range is of one row: to plan it takes long, too.
COMPUTED: Final = """\
    SELECT k.tenant_id, k.asset_id, k.hour, {computed}
    FROM (
        SELECT k.*, hours.hour
        FROM batch AS k
        CROSS JOIN LATERAL {rows} AS hours (hour)
        WHERE k.end_hour < k.first_hour + {long}
    ) AS k
    {sources}
    /* long ranges */ UNION ALL
    SELECT k.tenant_id, k.asset_id, {hour}, {computed_long}
    FROM batch AS k
    {grids}
    WHERE k.end_hour >= k.first_hour + {long} /* end of long ranges */"""
# Columns that were computed elsewhere: $5 the number of each row's range, $6 its time, then its features.
GIVEN: Final = """\
    SELECT batch.tenant_id, batch.asset_id, given.hour, {given}
    FROM unnest($5::bigint[], $6::timestamptz[], {arrays}) AS given (number, hour, {names})
    JOIN batch ON batch.number = given.number"""
INSERT: Final = """\
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
GONE: Final = """|| (
    SELECT array_agg(ROW (known.tenant_id, known.asset_id, known.hour)::public.feature_key)
    FROM known
    LEFT JOIN fresh ON fresh.tenant_id = known.tenant_id AND fresh.asset_id = known.asset_id AND fresh.hour = known.hour
    WHERE fresh.hour IS NULL AND known.generation = $3
) """
