"""Keys in Redis: of assets' rows, of negative-cache entries, and of how far the follower has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from ai_hub.features.store import JOIN_KEYS
from ai_hub.times import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from feast import FeatureStore
    from redis import Redis

#: Seconds after which a follower that has not reported is taken for stopped.
ALIVE_S: Final = 600


def online_client(store: FeatureStore) -> Any:
    """The store's own client of Redis, whatever kind of servers there is."""
    online: Any = store._get_provider().online_store  # noqa: SLF001  # Feast has no public way to it
    return online._get_client(store.config.online_store)  # noqa: SLF001


def asset_key(store: FeatureStore, tenant: str, asset: str) -> bytes:
    """Key of the hash in Redis that has the rows of all views of an asset."""
    values = [Value(string_val=tenant), Value(string_val=asset)]
    key = EntityKey(join_keys=list(JOIN_KEYS), entity_values=values)
    encoded: bytes = _redis_key(store.project, key, store.config.entity_key_serialization_version)
    return encoded


def followed_key(project: str) -> bytes:
    """Key of the hour up to which the follower has brought all rows, in seconds since 1970."""
    return f"ai_hub:followed:{project}".encode()


def set_followed(client: Redis, project: str, time: datetime) -> None:
    """Note that all rows of hours that had begun at `time` are in Redis."""
    seconds = round((time - EPOCH).total_seconds())
    client.set(followed_key(project), seconds - seconds % 3600, ex=ALIVE_S)


def negative_key(project: str, stamp_field: str, tenant: str, asset: str) -> bytes:
    """Key of the entry that an asset has no newer row; names of tenants and views have no `:`."""
    return f"ai_hub:looked:{project}:{stamp_field}:{tenant}:{asset}".encode()


def negative_pattern(project: str, tenant: str) -> bytes:
    """Pattern for SCAN of all of a tenant's negative-cache entries."""
    return f"ai_hub:looked:{project}:_ts:*:{tenant}:*".encode()


def delete_assets(store: FeatureStore, tenant: str, assets: Iterable[str]) -> None:
    """Delete the rows and negative-cache entries of assets, of every feature view of the project."""
    with online_client(store).pipeline(transaction=False) as pipe:
        for asset in assets:
            pipe.unlink(asset_key(store, tenant, asset))
            for view in store.list_feature_views():
                pipe.unlink(negative_key(store.project, f"_ts:{view.name}", tenant, asset))
        pipe.execute()
