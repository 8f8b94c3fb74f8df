"""Feast online store for Redis in which a corrected row replaces the row it corrects.

`feature_store.yaml` names it: `type: feast_plugins.online_store.CorrectableRedisOnlineStore`. The stock store
keeps the first row it sees of an event time, so a row that was written before its late readings arrived would
be served until the next hour; and it serves rows past their time to live. Keys and values are the stock
store's, byte for byte.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from feast import utils
from feast.infra.online_stores.helpers import _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online_status import mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from feast import FeatureView, RepoConfig
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class CorrectableRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Options of the stock Redis store, under this store's type."""

    type: str = "feast_plugins.online_store.CorrectableRedisOnlineStore"  # type: ignore[assignment]  # names the class

    skip_dedup: bool = True
    """The stock store's own check stays off: ours has been made, and its skips rows of the same time, too."""


class CorrectableRedisOnlineStore(RedisOnlineStore):
    """Stock Redis store that overwrites rows of the same event time and serves no expired ones."""

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

    def _read_features_per_fv(  # noqa: PLR0917  # Feast's signature
        self,
        config: RepoConfig,
        grouped_refs: Iterable[tuple[FeatureView, list[str]]],
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        views, known = list(grouped_refs), len(online_features_response.results)
        super()._read_features_per_fv(
            config,
            views,
            join_key_values,
            entity_name_to_join_key_map,
            online_features_response,
            full_feature_names,
            include_feature_view_version_metadata,
        )
        mark(views, online_features_response.results[known:], datetime.now(UTC))

    async def _read_features_per_fv_async(  # noqa: PLR0917  # Feast's signature
        self,
        config: RepoConfig,
        grouped_refs: Iterable[tuple[FeatureView, list[str]]],
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        views, known = list(grouped_refs), len(online_features_response.results)
        await super()._read_features_per_fv_async(
            config,
            views,
            join_key_values,
            entity_name_to_join_key_map,
            online_features_response,
            full_feature_names,
            include_feature_view_version_metadata,
        )
        mark(views, online_features_response.results[known:], datetime.now(UTC))


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
