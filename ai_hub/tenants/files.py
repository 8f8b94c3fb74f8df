"""A tenant's files of exports and keys in Redis: counted, and deleted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ai_hub.exports.locations import tenant_location
from ai_hub.features.store import negative_pattern, online_client
from feast_plugins.online.writing import delete_of_value, keys_of_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore

    from ai_hub.exports.locations import Bucket
    from ai_hub.settings import Settings

_BATCH = 1000


def count_exports(settings: Settings, tenant: str) -> dict[str, int]:
    """Number of export files and their bytes."""
    location = tenant_location(settings, tenant)
    if isinstance(location, Path):
        sizes = (
            [path.stat().st_size for path in location.rglob("*") if path.is_file()]
            if location.is_dir()
            else []
        )
    else:
        sizes = list(_objects(settings, location).values())
    return {"export_files": len(sizes), "export_bytes": sum(sizes)}


def delete_exports(settings: Settings, tenant: str) -> None:
    """Delete the tenant's whole folder of EXPORT_STORAGE_PATH."""
    location = tenant_location(settings, tenant)
    if isinstance(location, Path):
        if location.is_symlink():
            location.unlink()
        elif location.is_dir():
            shutil.rmtree(location)
        return
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    s3.delete_all(settings, location)


def count_online(store: FeatureStore, tenant: str) -> int:
    """Number of keys in Redis: rows of entities, and negative-cache entries."""
    return sum(1 for _ in _keys(store, tenant))


def delete_online(store: FeatureStore, tenant: str) -> None:
    """Delete every key of the tenant in Redis."""
    client = online_client(store)
    delete_of_value(client, store.project, _join_keys(store), "tenant_id", tenant)
    for key in list(client.scan_iter(match=negative_pattern(store.project, tenant), count=_BATCH)):
        client.unlink(key)


def _keys(store: FeatureStore, tenant: str) -> Iterator[bytes]:
    client = online_client(store)
    yield from keys_of_value(client, store.project, _join_keys(store), "tenant_id", tenant)
    yield from client.scan_iter(match=negative_pattern(store.project, tenant), count=_BATCH)


def _join_keys(store: FeatureStore) -> list[list[str]]:
    return [view.join_keys for view in store.list_feature_views()]


def _objects(settings: Settings, location: Bucket) -> dict[str, int]:
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    return s3.all_objects(settings, location)
