"""Training sets: the value of each hour beside the features known before it, split by time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pandas as pd
from psycopg import sql

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.store import feature_names
from ai_hub.forecasting import TARGET
from feast_plugins.windows.declarations import declaration_of
from feast_plugins.windows.features import HOUR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureService, FeatureStore


@dataclass(frozen=True)
class Window:
    """Times that part the data: [start, validation) trains, then validation, then holdout up to `end`."""

    start: datetime
    validation: datetime
    holdout: datetime
    end: datetime

    @classmethod
    def ending(cls, end: datetime, *, weeks: int, holdout_weeks: int) -> Window:
        """Split of the `weeks` before `end`; validation is as long as the held-out part.

        Raises:
            BadInputError: no week is left to train on.
        """
        if holdout_weeks < 1 or weeks <= 2 * holdout_weeks:
            raise BadInputError(
                f"{weeks} weeks with {holdout_weeks} held out leave nothing to train on.",
                hint="Hold out at least one week, and take more than twice the held-out weeks in all.",
            )
        part = timedelta(weeks=holdout_weeks)
        return cls(end - timedelta(weeks=weeks), end - 2 * part, end - part, end)


@dataclass(frozen=True)
class Split:
    """Rows of the three parts."""

    train: pd.DataFrame
    validation: pd.DataFrame
    holdout: pd.DataFrame


def split_by_time(rows: pd.DataFrame, window: Window) -> Split:
    """Part `rows` by their column `event_timestamp`; rows outside the window are left out.

    Raises:
        BadInputError: a part is empty.
    """
    times = rows["event_timestamp"]
    bounds = (window.start, window.validation, window.holdout, window.end)
    train, validation, holdout = (
        rows[(times >= first) & (times < last)] for first, last in itertools.pairwise(bounds)
    )
    for name, part in (("training", train), ("validation", validation), ("held-out", holdout)):
        if part.empty:
            raise BadInputError(
                f"There are no {name} rows between {window.start:%Y-%m-%d} and {window.end:%Y-%m-%d}.",
                hint="Ingest more history, or choose fewer weeks (--weeks, --holdout-weeks).",
            )
    return Split(train, validation, holdout)


# `local_time` is what the feature row of that very hour carries, see feature_repo/hourly_features.py.
HOURS = """
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
KNOWN_HOURS = """
SELECT versions.tenant_id, versions.asset_id, hours.hour AS event_timestamp, versions.lag_1h AS value,
    extract(epoch FROM hours.hour AT TIME ZONE assets.timezone)::bigint AS expected_local_time
FROM ai_features_versions AS versions
CROSS JOIN LATERAL (SELECT versions.event_timestamp - INTERVAL '1 hour' AS hour) AS hours
JOIN assets ON assets.tenant_id = versions.tenant_id AND assets.asset_id = versions.asset_id
WHERE versions.tenant_id = %(tenant)s AND versions.asset_id = ANY(%(assets)s)
    AND versions.event_timestamp >= %(start)s + INTERVAL '1 hour'
    AND versions.event_timestamp < %(end)s + INTERVAL '1 hour'
    AND versions.created_timestamp <= %(known_at)s
    AND (versions.superseded_at IS NULL OR versions.superseded_at > %(known_at)s)
    AND versions.lag_1h IS NOT NULL
ORDER BY hours.hour, versions.asset_id
"""
_LAST_KNOWN_HOUR = """
SELECT max(newest.hour) - INTERVAL '1 hour'
FROM unnest(%(assets)s::text[]) AS asset
CROSS JOIN LATERAL (
    SELECT versions.event_timestamp AS hour
    FROM ai_features_versions AS versions
    WHERE versions.tenant_id = %(tenant)s AND versions.asset_id = asset
        AND versions.created_timestamp <= %(known_at)s
        AND (versions.superseded_at IS NULL OR versions.superseded_at > %(known_at)s)
        AND versions.lag_1h IS NOT NULL
    ORDER BY versions.event_timestamp DESC
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


_HOURS_BY_WEEK = """
SELECT (extract(epoch FROM %(end)s - hour)::bigint - 1) / 604800, count(*) FROM hourly_values
WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s)
    AND hour >= %(start)s AND hour < %(end)s AND value IS NOT NULL
GROUP BY 1
"""


def hours_by_week(tenant: str, assets: Sequence[str], end: datetime, weeks: int) -> list[int]:
    """How many hours of all `assets` have a value, in each of so many weeks before `end`, the last first."""
    query = {"tenant": tenant, "assets": list(assets), "start": end - timedelta(weeks=weeks), "end": end}
    with connect() as connection:
        found: dict[int, int] = dict(connection.execute(_HOURS_BY_WEEK, query).fetchall())
    return [found.get(week, 0) for week in range(weeks)]


def read_hours(
    tenant: str, assets: Sequence[str], start: datetime, end: datetime, known_at: datetime | None = None
) -> pd.DataFrame:
    """Hours of [start, end) with a reading: keys, `event_timestamp`, target and `expected_local_time`.

    With `known_at`, as the last refresh before that time knew them; hours count once the next has begun.
    """
    query = HOURS if known_at is None else KNOWN_HOURS
    values = {"tenant": tenant, "assets": list(assets), "start": start, "end": end, "known_at": known_at}
    with connect() as connection:
        rows = connection.execute(query, values).fetchall()
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, "expected_local_time"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


_ROW_TIMES: Final = """
SELECT asset_id, event_timestamp FROM {}
WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s) AND event_timestamp BETWEEN %(first)s AND %(last)s
"""
_KNOWN_ROW_TIMES: Final = f"""{_ROW_TIMES}
    AND created_timestamp <= %(known_at)s AND (superseded_at IS NULL OR superseded_at > %(known_at)s)
"""  # constants


# An asset registered later was not known.
_METERS = """
SELECT kind, asset_id FROM assets
WHERE tenant_id = %(tenant)s AND kind <> 'weather' AND created_at <= coalesce(%(known_at)s, now())
ORDER BY kind, asset_id
"""


@dataclass(frozen=True)
class TrainingSet:
    """One row an asset and hour: keys, `event_timestamp` (start of the hour), features and the target."""

    rows: pd.DataFrame
    features: list[str]
    #: hours left out because their own feature row does not exist
    without_features: int


def meters(
    tenant: str, kind: str | None = None, chosen: Sequence[str] = (), known_at: datetime | None = None
) -> dict[str, list[str]]:
    """The tenant's assets with readings, by kind; only `chosen` ones if any are named.

    With `known_at`, those registered by then; their kind is the present one.

    Raises:
        NotFoundError: a chosen asset, or any at all, is missing.
    """
    with connect() as connection:
        rows = connection.execute(_METERS, {"tenant": tenant, "known_at": known_at}).fetchall()
    meters = [(str(of), str(asset)) for of, asset in rows]
    selected = [(of, asset) for of, asset in meters if kind in {None, of} and (not chosen or asset in chosen)]
    if absent := sorted(set(chosen) - {asset for _, asset in selected}):
        raise NotFoundError(
            f"Tenant {tenant} has no {kind or 'meter'} {', '.join(absent)}.", hint=_listing(tenant, meters)
        )
    if not selected:
        raise NotFoundError(
            f"Tenant {tenant} has no {kind or ''} meters.".replace("  ", " "), hint=_listing(tenant, meters)
        )
    by_kind: dict[str, list[str]] = {}
    for of, asset in selected:
        by_kind.setdefault(of, []).append(asset)
    return by_kind


def _listing(tenant: str, meters: list[tuple[str, str]]) -> str:
    if not meters:
        return f"Bring readings in with `ai-hub ingest readings FILE --tenant {tenant}`."
    return f"It has: {', '.join(f'{asset} ({kind})' for kind, asset in meters)}."


def build(
    store: FeatureStore, service: FeatureService, tenant: str, assets: Sequence[str], window: Window
) -> TrainingSet:
    """Point-in-time correct training set of `assets` over `window`.

    Features and targets are those of the time the store is open at, see `open_store`. An hour counts only
    with its own feature row: lags of an earlier hour would teach the wrong distance.

    Raises:
        NotFoundError: the window has no readings.
        BadInputError: rows of the service do not tell which hour they are of.
    """
    hours = read_hours(tenant, assets, window.start, window.end, store.config.offline_store.known_at)
    if hours.empty:
        raise NotFoundError(
            f"There are no readings of {', '.join(assets)} (tenant {tenant}) "
            f"from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}.",
            hint="Choose another --until or more --weeks.",
        )
    names = feature_names(service)
    job = store.get_historical_features(entity_df=hours, features=service)
    joined = job.to_df()
    if "local_time" in joined:
        own = joined["local_time"] == joined["expected_local_time"]
    else:
        own = _have_rows(store, service, joined)
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, *names]
    rows = joined.loc[own, columns].reset_index(drop=True)
    return TrainingSet(rows, names, int((~own).sum()))


def _have_rows(store: FeatureStore, service: FeatureService, hours: pd.DataFrame) -> pd.Series[bool]:
    """Which hours have a row of their own in each declared view of a service without `local_time`."""
    own = pd.Series(True, index=hours.index)  # of all of them
    keys = pd.MultiIndex.from_frame(hours[["asset_id", "event_timestamp"]])
    for projection in service.feature_view_projections:
        view = store.registry.get_any_feature_view(projection.name, store.project)
        declaration = declaration_of(view)
        if declaration is None or declaration.step > HOUR:
            raise BadInputError(
                f"Targets are values of hours, and {view.name} does not tell which rows are of which hour.",
                hint="Train on a feature service of declared views with rows every hour or less.",
            )
        own &= keys.isin(_row_times(view.name, hours, store.config.offline_store.known_at))
    return own


def _row_times(view: str, hours: pd.DataFrame, known_at: datetime | None) -> list[tuple[str, datetime]]:
    query = _ROW_TIMES if known_at is None else _KNOWN_ROW_TIMES
    values = {
        "tenant": hours["tenant_id"].iloc[0],
        "assets": sorted(hours["asset_id"].unique()),
        "first": hours["event_timestamp"].min(),
        "last": hours["event_timestamp"].max(),
        "known_at": known_at,
    }
    relation = sql.Identifier(view if known_at is None else f"{view}_versions")
    with connect() as connection:
        rows = connection.execute(sql.SQL(query).format(relation), values).fetchall()
    return [(asset, time.astimezone(UTC)) for asset, time in rows]
