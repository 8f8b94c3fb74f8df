# ruff: noqa: E501, S608 - SQL as it is sent
"""Templates of the values that are not an asset's own: external series, and totals of a group of assets.

They have the columns that `feast_plugins.windows.statements` merges.
"""

from __future__ import annotations

from typing import Final

#: Whose values of a series an asset uses, by the key in its column.
KEYS: Final = {
    "tenant": "''",
    "asset": "k.asset_id",
    "price_zone": "k.price_zone",
    "group": "k.asset_group",
    "weather_station": "k.weather_station",
}

#: Columns of an asset that say what its values are and whose others it uses.
ASSET_COLUMNS: Final = """\
coalesce(assets.timezone, 'UTC') AS timezone, assets.is_amount, assets.unit_factor, assets.interval_seconds,
    assets.price_zone, assets."group" AS asset_group, assets.weather_station"""

# Of each timestamp the newest issue that was available at the row's time, then their mean in each step. Unlike a grid
# of steps this depends on the row, so it is read for each row.
SERIES: Final = """\
SELECT ago, value, value AS least, value AS greatest, ARRAY[1, value, 0] AS state, 1::bigint AS readings, ingested_at
FROM (
    SELECT ago, avg(value) AS value, max(ingested_at) AS ingested_at
    FROM (
        SELECT DISTINCT ON (issues."timestamp")
            {ago} AS ago,
            issues.value, issues.ingested_at
        FROM public.covariates AS issues
        WHERE issues.tenant_id = k.tenant_id AND issues.series = '{series}' AND issues.zone = {zone}
            AND issues."timestamp" >= {first} AND issues."timestamp" < {end}
            AND issues.available_at <= {hour}
            {bounds}
        ORDER BY issues."timestamp", issues.available_at DESC
    ) AS newest
    GROUP BY ago
) AS hours"""
# The same for steps of less than an hour, where a value may be of several steps: those of an hour that has values at equal
# distances of whole steps, such as one at its begin, last until the next one, others for their own step.
SERIES_IN_HOURS: Final = """\
SELECT ago, value, value AS least, value AS greatest, ARRAY[1, value, 0] AS state, 1::bigint AS readings, ingested_at
FROM (
    SELECT {ago} AS ago, avg(value) AS value, max(ingested_at) AS ingested_at
    FROM (
        SELECT *, mod({per_hour}, count) = 0 AND bool_and(mod(seconds * count, 3600) = 0) OVER (PARTITION BY "hour") AS is_regular
        FROM (
            SELECT *, time_bucket(INTERVAL '1 hour', "timestamp") AS "hour",
                mod(extract(epoch FROM "timestamp"), 3600) AS seconds,
                count(*) OVER (PARTITION BY time_bucket(INTERVAL '1 hour', "timestamp")) AS count
            FROM (
                SELECT DISTINCT ON (issues."timestamp") issues."timestamp", issues.value, issues.ingested_at
                FROM public.covariates AS issues
                WHERE issues.tenant_id = k.tenant_id AND issues.series = '{series}' AND issues.zone = {zone}
                    AND issues."timestamp" >= time_bucket(INTERVAL '1 hour', {first})
                    AND issues."timestamp" < time_bucket(INTERVAL '1 hour', {end} - INTERVAL '1 microsecond') + INTERVAL '1 hour'
                    AND issues.available_at <= {hour}
                    {bounds}
                ORDER BY issues."timestamp", issues.available_at DESC
            ) AS newest
        ) AS counted
    ) AS issued
    CROSS JOIN LATERAL generate_series(
        {begin},
        CASE WHEN is_regular THEN "timestamp" + INTERVAL '1 hour' / count - INTERVAL '1 microsecond' ELSE "timestamp" END,
        INTERVAL '{step}'
    ) AS steps (begin)
    WHERE steps.begin >= {first} AND steps.begin < {end}
    GROUP BY steps.begin
) AS hours"""
SERIES_BOUNDS: Final = """AND issues."timestamp" >= %3$L::timestamptz - INTERVAL '1 hour'
            AND issues."timestamp" < %2$L::timestamptz + INTERVAL '1 hour'"""

# Total of a group in each hour of [first_hour, end_hour). Empty where a member has no value though its readings have
# begun, and where the members' units differ: a part of a sum looks like the sum of less.
_TOTALS: Final = """\
SELECT hour, max(ingested_at) AS ingested_at,
    CASE WHEN count(value) = count(*) AND count(DISTINCT feature_unit) = 1 THEN sum(value ORDER BY asset_id) END AS value
FROM (
    SELECT k.asset_id, k.feature_unit, member.*
    FROM (
        SELECT members.tenant_id, members.asset_id, members.is_amount, members.unit_factor, members.interval_seconds,
            coalesce(members.feature_unit, '') AS feature_unit,
            greatest({first_hour}, spans.first_hour) AS first_hour, {end_hour} AS end_hour
        FROM public.assets AS members
        JOIN public.asset_spans AS spans ON spans.tenant_id = members.tenant_id AND spans.asset_id = members.asset_id
        WHERE members.tenant_id = k.tenant_id AND members."group" = k.asset_group
    ) AS k
    CROSS JOIN LATERAL (
{readings}
    ) AS member
) AS members
GROUP BY hour"""
_MERGED: Final = """\
total.value, total.value AS least, total.value AS greatest,
    CASE WHEN total.value IS NOT NULL THEN ARRAY[1, total.value, 0] END AS state,
    (total.value IS NOT NULL)::integer::bigint AS readings, total.ingested_at"""
TOTAL: Final = f"""\
SELECT {{ago}} AS ago, {_MERGED}
FROM (
{{totals}}
) AS total"""
TOTAL_GRID: Final = f"""\
SELECT {{first_row}} AS hour, {_MERGED}
FROM {{grid}} AS grid (hour)
LEFT JOIN (
{{totals}}
) AS total ON total.hour = grid.hour"""
# Once for all rows of a batch: the members of a group use the same hours. A row of each group, so that rows find theirs
# without a look at the hours of all others.
BATCH_TOTALS: Final = """\
group_totals AS MATERIALIZED (
    SELECT k.tenant_id, k.asset_group,
        array_agg(total.hour) AS hours, array_agg(total.value) AS values, array_agg(total.ingested_at) AS ingested
    FROM (
        SELECT tenant_id, asset_group, lower(part) AS first_hour, upper(part) AS end_hour
        FROM (
            SELECT tenant_id, asset_group,
                unnest(range_agg(tstzrange(first_hour - {farthest}, end_hour))) AS part
            FROM batch WHERE asset_group IS NOT NULL GROUP BY tenant_id, asset_group
        ) AS parts
    ) AS k
    CROSS JOIN LATERAL (
{totals}
    ) AS total
    GROUP BY k.tenant_id, k.asset_group
),"""
OF_BATCH: Final = """\
SELECT totals.hour, totals.value, totals.ingested_at
FROM group_totals AS of_group
CROSS JOIN LATERAL unnest(of_group.hours, of_group.values, of_group.ingested) AS totals (hour, value, ingested_at)
WHERE of_group.tenant_id = k.tenant_id AND of_group.asset_group = k.asset_group
    AND totals.hour >= {first_hour} AND totals.hour < {end_hour}"""


def totals(readings: str, *, first_hour: str, end_hour: str) -> str:
    """Totals of the group `k.asset_group` by hour; `readings` is the grid of a member's hours."""
    return _TOTALS.format(readings=readings, first_hour=first_hour, end_hour=end_hour)
