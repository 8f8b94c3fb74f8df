"""Takes assets' rows out of Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from ai_hub.features.followed import mark_key
from ai_hub.features.store import JOIN_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from feast import FeatureStore


def online_client(store: FeatureStore) -> Any:
    """The store's own client of Redis, whatever kind of servers there is."""
    online: Any = store._get_provider().online_store  # noqa: SLF001  # Feast has no public way to it
    return online._get_client(store.config.online_store)  # noqa: SLF001


def asset_key(store: FeatureStore, tenant: str, asset: str) -> bytes:
    """Key of the hash in Redis that has the rows of all views of an asset."""
    values = [Value(string_val=tenant), Value(string_val=asset)]
    key = EntityKey(join_keys=list(JOIN_KEYS), entity_values=values)
    found: bytes = _redis_key(store.project, key, store.config.entity_key_serialization_version)
    return found


def forget(store: FeatureStore, tenant: str, assets: Iterable[str]) -> None:
    """Delete what every feature view of the project has stored of these assets."""
    with online_client(store).pipeline(transaction=False) as pipe:
        for asset in assets:
            pipe.unlink(asset_key(store, tenant, asset))
            for view in store.list_feature_views():
                pipe.unlink(mark_key(store.project, f"_ts:{view.name}", tenant, asset))
        pipe.execute()
