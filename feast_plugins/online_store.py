"""Feast online store for Redis in which a corrected row replaces the row it corrects.

`feature_store.yaml` names it: `type: feast_plugins.online_store.CorrectableRedisOnlineStore`. The stock store
keeps the first row it sees of an event time, so a row that was written before its late readings arrived would
be served until the next hour. Keys and values are the stock store's, byte for byte.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from feast import utils
from feast.infra.online_stores.helpers import _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class CorrectableRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Options of the stock Redis store, under this store's type."""

    type: str = "feast_plugins.online_store.CorrectableRedisOnlineStore"  # type: ignore[assignment]  # names the class

    skip_dedup: bool = True
    """The stock store's own check stays off: ours has been made, and its skips rows of the same time, too."""


class CorrectableRedisOnlineStore(RedisOnlineStore):
    """Stock Redis store that skips older rows only; one of the same event time overwrites."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write the rows that are not older than what is stored, the newest of an entity last."""
        keys = [_redis_key(config.project, key, config.entity_key_serialization_version) for key, *_ in data]
        field = f"_ts:{_versioned_fv_name(table, config)}"
        with self._get_client(config.online_store).pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, field)
            stored = pipe.execute()
        current = [
            row for row, known in zip(data, stored, strict=True) if _nanos(row[2]) >= _stored_nanos(known)
        ]
        if progress and len(current) < len(data):
            progress(len(data) - len(current))
        super().online_write_batch(config, table, sorted(current, key=lambda row: _nanos(row[2])), progress)

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)


def _nanos(time: datetime) -> int:
    stamp = Timestamp()
    stamp.FromDatetime(utils.make_tzaware(time))
    return int(stamp.ToNanoseconds())


def _stored_nanos(known: bytes | None) -> int:
    if known is None:
        return 0
    stamp = Timestamp()
    stamp.ParseFromString(known)
    return int(stamp.ToNanoseconds())
