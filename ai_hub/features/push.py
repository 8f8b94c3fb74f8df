"""One reading, stored and online at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pandas as pd
from feast.data_source import PushMode

from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.materialize import Pass, materialize
from ai_hub.features.newest import Scope
from ai_hub.ingest import assets, policies
from ai_hub.ingest.datasets import Readings
from ai_hub.ingest.options import Reading as ReadingKind
from ai_hub.ingest.validation import validate

if TYPE_CHECKING:
    from feast import FeatureStore

    from ai_hub.ingest.assets import Asset

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
    #: time of the reading that is online: that of a newer one, if there is one; None: a register's first
    #: reading, which counts nothing yet
    online_time: datetime | None
    #: seconds until the asset's newest feature rows were online
    features_s: float
    features: Pass


def check(reading: Reading) -> tuple[pd.DataFrame, Asset]:
    """The reading as a row of `timeseries_data`, or of `register_readings`, if it meets its asset's rules.

    Raises:
        BadInputError: it breaks one; says which.
        NotFoundError: the asset is not registered.
    """
    with connect() as connection:
        asset = assets.find(connection, reading.tenant, [reading.asset]).get(reading.asset)
        registered = () if asset else list(assets.find_all(connection, reading.tenant)[0])
        bounds = policies.find_bounds(connection, reading.tenant)
    if asset is None:
        near = get_close_matches(reading.asset, registered, n=1)
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
        }
    )
    row["asset_id"] = reading.asset
    dataset = Readings(now=now, bounds=bounds)
    reasons = validate(dataset, row, {reading.asset: asset})
    if reason := reasons.iloc[0]:
        raise BadInputError(f"Not a reading of {reading.asset}: {reason}.")
    return row.assign(tenant_id=reading.tenant, ingested_at=now.as_unit("us")), asset


def push(store: FeatureStore, reading: Reading) -> Pushed:
    """Store a reading, put it online, then the features that follow from it.

    Raises:
        BadInputError: the reading breaks the rules of its asset's kind.
        NotFoundError: the asset is not registered.
    """
    row, asset = check(reading)
    started = time.monotonic()
    # stored first: what is online is in the table, too
    if asset.reading is ReadingKind.REGISTER:
        row = _store_register(row)
    else:
        store.push(SOURCE, row, to=PushMode.OFFLINE)
        _known_from_now(row)
    if len(row):
        store.push(SOURCE, row, to=PushMode.ONLINE)
    answer = store.get_online_features(
        features=[f"{VIEW}:value"], entity_rows=[{"tenant_id": reading.tenant, "asset_id": reading.asset}]
    )
    stamp = answer.proto.results[-1].event_timestamps[0]
    online_time = stamp.ToDatetime(UTC) if stamp.seconds else None
    online_s = time.monotonic() - started
    refresh()
    features = materialize(store, Scope([reading.tenant], [reading.asset]))
    return Pushed(online_s, online_time, time.monotonic() - started, features)


def _known_from_now(row: pd.DataFrame) -> None:
    """Of a reading that said when it was available, what was pushed now was not available then."""
    values = {str(name): value for name, value in row.iloc[0].items()}
    with connect(autocommit=True) as connection:
        connection.execute(
            "UPDATE timeseries_data SET available_at = greatest(available_at, ingested_at)"
            ' WHERE tenant_id = %(tenant_id)s AND asset_id = %(asset_id)s AND "timestamp" = %(timestamp)s'
            " AND ingested_at = %(ingested_at)s AND available_at < ingested_at",
            values | {name: values[name].to_pydatetime() for name in ("timestamp", "ingested_at")},
        )


def _store_register(row: pd.DataFrame) -> pd.DataFrame:
    """Store a reading of a register; the newest amount that follows from all of them, if there is one."""
    values = {str(name): value for name, value in row.iloc[0].items()}
    with connect(autocommit=True) as connection:
        connection.execute(
            'INSERT INTO register_readings ("timestamp", tenant_id, asset_id, value, quality)'
            " VALUES (%(timestamp)s, %(tenant_id)s, %(asset_id)s, %(value)s, %(quality)s)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
            " DO UPDATE SET value = excluded.value, quality = excluded.quality, ingested_at = now(),"
            " available_at = CASE WHEN register_readings.available_at IS NOT NULL"
            " THEN greatest(register_readings.available_at, now()) END",
            values | {"timestamp": values["timestamp"].to_pydatetime()},
        )
        found = connection.execute(
            'SELECT "timestamp", value, quality, ingested_at FROM timeseries_data'
            " WHERE tenant_id = %(tenant_id)s AND asset_id = %(asset_id)s"
            ' ORDER BY "timestamp" DESC LIMIT 1',
            values,
        ).fetchall()
    amounts = pd.DataFrame(found, columns=["timestamp", "value", "quality", "ingested_at"])
    for name in ("timestamp", "ingested_at"):
        amounts[name] = pd.to_datetime(amounts[name], utc=True).astype("datetime64[us, UTC]")
    return amounts.assign(tenant_id=values["tenant_id"], asset_id=values["asset_id"])
