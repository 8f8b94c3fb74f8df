"""What each hour turned out to be: as it is known now, or as it was known at an earlier time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd

from ai_hub.database.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.training.terms import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

# `local_time` is what the feature row of that very hour carries, see feature_repo/sources.py.
_HOURS = """
SELECT hourly.tenant_id, hourly.asset_id, hourly.hour AS event_timestamp, hourly.value,
    extract(epoch FROM hourly.hour AT TIME ZONE assets.timezone)::bigint AS expected_local_time
FROM hourly_values AS hourly
JOIN assets ON assets.tenant_id = hourly.tenant_id AND assets.asset_id = hourly.asset_id
WHERE hourly.tenant_id = %(tenant)s AND hourly.asset_id = ANY(%(assets)s)
    AND hourly.hour >= %(start)s AND hourly.hour < %(end)s AND hourly.value IS NOT NULL
ORDER BY hourly.hour, hourly.asset_id
"""
_LAST_HOUR = """
SELECT max(hour) FROM hourly_values
WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s) AND hour < date_trunc('hour', now())
    AND value IS NOT NULL
"""
# The value of an hour is `lag_1h` of the feature row one hour later, so the versions of the feature rows hold
# what was known of the targets, too.
_KNOWN_HOURS = """
SELECT versions.tenant_id, versions.asset_id, hours.hour AS event_timestamp, versions.lag_1h,
    extract(epoch FROM hours.hour AT TIME ZONE assets.timezone)::bigint AS expected_local_time
FROM ai_feature_versions AS versions
CROSS JOIN LATERAL (SELECT versions.hour - INTERVAL '1 hour' AS hour) AS hours
JOIN assets ON assets.tenant_id = versions.tenant_id AND assets.asset_id = versions.asset_id
WHERE versions.tenant_id = %(tenant)s AND versions.asset_id = ANY(%(assets)s)
    AND versions.hour >= %(start)s + INTERVAL '1 hour' AND versions.hour < %(end)s + INTERVAL '1 hour'
    AND versions.created_timestamp <= %(known_at)s
    AND (versions.superseded_at IS NULL OR versions.superseded_at > %(known_at)s)
    AND versions.lag_1h IS NOT NULL
ORDER BY hours.hour, versions.asset_id
"""
_LAST_KNOWN_HOUR = """
SELECT max(newest.hour) - INTERVAL '1 hour'
FROM unnest(%(assets)s::text[]) AS asset
CROSS JOIN LATERAL (
    SELECT versions.hour
    FROM ai_feature_versions AS versions
    WHERE versions.tenant_id = %(tenant)s AND versions.asset_id = asset
        AND versions.created_timestamp <= %(known_at)s
        AND (versions.superseded_at IS NULL OR versions.superseded_at > %(known_at)s)
        AND versions.lag_1h IS NOT NULL
    ORDER BY versions.hour DESC
    LIMIT 1
) AS newest
"""


def end_of_data(tenant: str, assets: Sequence[str], known_at: datetime | None = None) -> datetime:
    """End of the last full hour with a reading of any of `assets`, as known at `known_at` (default: now).

    Raises:
        NotFoundError: there is no reading.
    """
    query = _LAST_HOUR if known_at is None else _LAST_KNOWN_HOUR
    with connect() as connection:
        row = connection.execute(
            query, {"tenant": tenant, "assets": list(assets), "known_at": known_at}
        ).fetchone()
    if row is None or row[0] is None:
        then = f" known at {known_at:%Y-%m-%d %H:%M %Z}" if known_at else ""
        raise NotFoundError(
            f"There are no readings of {', '.join(assets)} (tenant {tenant}){then}.",
            hint=f"Bring some in with `ai-hub ingest readings FILE --tenant {tenant}`.",
        )
    last: datetime = row[0]
    return last + timedelta(hours=1)


def read_hours(
    tenant: str, assets: Sequence[str], start: datetime, end: datetime, known_at: datetime | None = None
) -> pd.DataFrame:
    """Hours of [start, end) with a reading: keys, `event_timestamp`, target and `expected_local_time`.

    With `known_at`, as the last refresh before that time knew them; hours count once the next has begun.
    """
    query = _HOURS if known_at is None else _KNOWN_HOURS
    values = {"tenant": tenant, "assets": list(assets), "start": start, "end": end, "known_at": known_at}
    with connect() as connection:
        rows = connection.execute(query, values).fetchall()
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, "expected_local_time"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame
