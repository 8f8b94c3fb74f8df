"""Training sets: what each hour turned out to be, beside the features known before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd

from ai_hub.database.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.features.store import feature_names
from ai_hub.training.terms import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from feast import FeatureService, FeatureStore

    from ai_hub.training.splits import Window

# `local_time` is what the feature row of that very hour carries, see feature_repo/sources.py.
_HOURS = """
SELECT hourly.tenant_id, hourly.asset_id, hourly.hour AS event_timestamp, hourly.avg_value,
    extract(epoch FROM hourly.hour AT TIME ZONE assets.timezone)::bigint AS expected_local_time
FROM hourly_features AS hourly
JOIN assets ON assets.tenant_id = hourly.tenant_id AND assets.asset_id = hourly.asset_id
WHERE hourly.tenant_id = %(tenant)s AND hourly.asset_id = ANY(%(assets)s)
    AND hourly.hour >= %(start)s AND hourly.hour < %(end)s
ORDER BY hourly.hour, hourly.asset_id
"""
_LAST_HOUR = """
SELECT max(hour) FROM hourly_features
WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s) AND hour < date_trunc('hour', now())
"""


@dataclass(frozen=True)
class TrainingSet:
    """One row an asset and hour: keys, `event_timestamp` (start of the hour), features and the target."""

    rows: pd.DataFrame
    features: list[str]
    #: hours left out because their own feature row does not exist
    without_features: int


def meters(tenant: str, kind: str | None = None, chosen: Sequence[str] = ()) -> dict[str, list[str]]:
    """The tenant's assets with readings, by kind; only `chosen` ones if any are named.

    Raises:
        NotFoundError: a chosen asset, or any at all, is missing.
    """
    query = (
        "SELECT kind, asset_id FROM assets WHERE tenant_id = %s AND kind <> 'weather' ORDER BY kind, asset_id"
    )
    with connect() as connection:
        known = [(str(of), str(asset)) for of, asset in connection.execute(query, [tenant]).fetchall()]
    wanted = [(of, asset) for of, asset in known if kind in {None, of} and (not chosen or asset in chosen)]
    if absent := sorted(set(chosen) - {asset for _, asset in wanted}):
        raise NotFoundError(
            f"Tenant {tenant} has no {kind or 'meter'} {', '.join(absent)}.", hint=_listing(tenant, known)
        )
    if not wanted:
        raise NotFoundError(
            f"Tenant {tenant} has no {kind or ''} meters.".replace("  ", " "), hint=_listing(tenant, known)
        )
    by_kind: dict[str, list[str]] = {}
    for of, asset in wanted:
        by_kind.setdefault(of, []).append(asset)
    return by_kind


def _listing(tenant: str, known: list[tuple[str, str]]) -> str:
    if not known:
        return f"Bring readings in with `ai-hub ingest readings FILE --tenant {tenant}`."
    return f"It has: {', '.join(f'{asset} ({kind})' for kind, asset in known)}."


def end_of_data(tenant: str, assets: Sequence[str]) -> datetime:
    """End of the last full hour with a reading of any of `assets`.

    Raises:
        NotFoundError: there is no reading.
    """
    with connect() as connection:
        row = connection.execute(_LAST_HOUR, {"tenant": tenant, "assets": list(assets)}).fetchone()
    if row is None or row[0] is None:
        raise NotFoundError(
            f"There are no readings of {', '.join(assets)} (tenant {tenant}).",
            hint=f"Bring some in with `ai-hub ingest readings FILE --tenant {tenant}`.",
        )
    last: datetime = row[0]
    return last + timedelta(hours=1)


def read_hours(tenant: str, assets: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
    """Hours of [start, end) with a reading: keys, `event_timestamp`, target and `expected_local_time`."""
    values = {"tenant": tenant, "assets": list(assets), "start": start, "end": end}
    with connect() as connection:
        rows = connection.execute(_HOURS, values).fetchall()
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, "expected_local_time"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


def build(
    store: FeatureStore, service: FeatureService, tenant: str, assets: Sequence[str], window: Window
) -> TrainingSet:
    """Point-in-time correct training set of `assets` over `window`.

    An hour counts only with its own feature row: lags of an earlier hour would teach the wrong distance.

    Raises:
        NotFoundError: the window has no readings.
    """
    hours = read_hours(tenant, assets, window.start, window.end)
    if hours.empty:
        raise NotFoundError(
            f"There are no readings of {', '.join(assets)} (tenant {tenant}) "
            f"from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}.",
            hint="Choose another --until or more --weeks.",
        )
    names = feature_names(service)
    job = store.get_historical_features(entity_df=hours, features=service)
    joined = job.to_df()
    own = joined["local_time"] == joined["expected_local_time"]
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, *names]
    rows = joined.loc[own, columns].reset_index(drop=True)
    return TrainingSet(rows, names, int((~own).sum()))
