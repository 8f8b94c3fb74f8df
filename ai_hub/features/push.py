"""One reading, stored and online at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pandas as pd
from feast.data_source import PushMode

from ai_hub.database.connection import connect
from ai_hub.database.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.materialize import Pass, materialize
from ai_hub.features.newest import Scope
from ai_hub.ingest import assets, bounds, rules

if TYPE_CHECKING:
    from feast import FeatureStore

#: Push source and the view over it, see feature_repo/.
SOURCE = "readings"
VIEW = "latest_reading"


@dataclass(frozen=True)
class Reading:
    """What a meter read."""

    tenant: str
    asset: str
    time: datetime
    value: float
    quality: str = "good"


@dataclass(frozen=True)
class Pushed:
    """How it went."""

    #: seconds until `latest_reading` gave the reading
    online_s: float
    #: time of the reading that is online: that of a newer one, if there is one
    online_time: datetime
    #: seconds until the asset's newest feature rows were online
    features_s: float
    features: Pass


def check(reading: Reading) -> pd.DataFrame:
    """The reading as a row of `timeseries_data`, if it meets the rules of its asset's kind.

    Raises:
        BadInputError: it breaks one; says which.
        NotFoundError: the asset is not registered.
    """
    with connect() as connection:
        known = assets.find(connection, reading.tenant)
        taken = bounds.find(connection, reading.tenant)
    if (asset := known.get(reading.asset)) is None:
        near = get_close_matches(reading.asset, known, n=1)
        raise NotFoundError(
            f"Tenant {reading.tenant} has no asset {reading.asset}.",
            hint=f"Did you mean {near[0]}?"
            if near
            else f"Register it first: `ai-hub asset add {reading.asset} --tenant {reading.tenant} --kind …`.",
        )
    now = pd.Timestamp.now("UTC")
    row = pd.DataFrame(
        {
            "timestamp": pd.to_datetime([reading.time], utc=True).as_unit("us"),
            "value": [float(reading.value)],
            "quality": pd.Series([reading.quality], dtype=object),
            "capacity": [float("nan") if asset.capacity is None else asset.capacity],
        }
    )
    schema = rules.readings_schema(asset.kind, now, rated=True, bounds=taken)
    if reasons := list(rules.violations(schema, row)):
        raise BadInputError(f"Not a reading of {reading.asset}: {'; '.join(reasons)}.")
    return row.drop(columns="capacity").assign(
        tenant_id=reading.tenant, asset_id=reading.asset, ingested_at=now.as_unit("us")
    )


def push(store: FeatureStore, reading: Reading) -> Pushed:
    """Store a reading, put it online, then the features that follow from it.

    Raises:
        BadInputError: the reading breaks the rules of its asset's kind.
        NotFoundError: the asset is not registered.
    """
    row = check(reading)
    started = time.monotonic()
    # stored first: what is online is in the table, too
    for mode in (PushMode.OFFLINE, PushMode.ONLINE):
        store.push(SOURCE, row, to=mode)
    answer = store.get_online_features(
        features=[f"{VIEW}:value"], entity_rows=[{"tenant_id": reading.tenant, "asset_id": reading.asset}]
    )
    online_time = answer.proto.results[-1].event_timestamps[0].ToDatetime(UTC)
    online_s = time.monotonic() - started
    refresh()
    features = materialize(store, Scope([reading.tenant], [reading.asset]))
    return Pushed(online_s, online_time, time.monotonic() - started, features)
