"""Training sets: what each hour turned out to be, beside the features known before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ai_hub.database.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.features.store import feature_names
from ai_hub.training.targets import read_hours
from ai_hub.training.terms import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from feast import FeatureService, FeatureStore

    from ai_hub.training.splits import Window

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
        found = connection.execute(_METERS, {"tenant": tenant, "known_at": known_at}).fetchall()
    known = [(str(of), str(asset)) for of, asset in found]
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


def build(
    store: FeatureStore, service: FeatureService, tenant: str, assets: Sequence[str], window: Window
) -> TrainingSet:
    """Point-in-time correct training set of `assets` over `window`.

    Features and targets are those of the time the store is open at, see `open_store`. An hour counts only
    with its own feature row: lags of an earlier hour would teach the wrong distance.

    Raises:
        NotFoundError: the window has no readings.
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
    own = joined["local_time"] == joined["expected_local_time"]
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, *names]
    rows = joined.loc[own, columns].reset_index(drop=True)
    return TrainingSet(rows, names, int((~own).sum()))
