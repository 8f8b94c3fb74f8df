"""Feast online store for Redis at the speed of Redis.

`feature_store.yaml` names it: `type: feast_plugins.online_store.CorrectableRedisOnlineStore`. Keys and values
are those of Feast's own Redis store, byte for byte. What it does differently:

- a request is one round trip with one HMGET an entity, and stored bytes are answered without being decoded;
- a missing row is NOT_FOUND, one past its view's time to live OUTSIDE_MAX_AGE and empty, an empty value
  NULL_VALUE;
- a corrected row replaces the row of the same event time, an older row never does;
- what is deleted is this project's alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from feast import FeatureService, metrics
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods

from feast_plugins.online import encoding, writing
from feast_plugins.online.connection import ConnectionConfig, Connections
from feast_plugins.online.plan import Plans
from feast_plugins.online.reading import Read
from feast_plugins.online.writing import Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from feast import Entity, FeatureView, RepoConfig
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.online_response import OnlineResponse

    from feast_plugins.online.connection import AsyncClient, Client
    from feast_plugins.online.encoding import EntityRows
    from feast_plugins.online.plan import Features, Plan
    from feast_plugins.online.writing import Row


class CorrectableRedisOnlineStoreConfig(ConnectionConfig):
    """Options of the stock Redis store, under this store's type."""

    type: str = "feast_plugins.online_store.CorrectableRedisOnlineStore"  # type: ignore[assignment]  # names the class


class CorrectableRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store, read and written in as few steps as there can be."""

    def __init__(self) -> None:
        super().__init__()
        self._connections = Connections()
        self._plans = Plans()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes."""
        return SupportedAsyncMethods(read=True, write=True)

    def get_online_features(  # noqa: PLR0917  # Feast's signature
        self,
        config: RepoConfig,
        features: Features,
        entity_rows: EntityRows,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Newest features of each entity row, in the order of the request, after the join keys."""
        plan = self._plans.get(config, registry, project, features, full_names=full_feature_names)
        if _is_precomputed(plan):
            return super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
        read = Read(plan, entity_rows, config.project)
        started = time.monotonic()
        replies = self._connections.exchange(config.online_store, read.commands)
        metrics.track_online_store_read(time.monotonic() - started)
        return read.answer(replies, view_metadata=include_feature_view_version_metadata)

    async def get_online_features_async(  # noqa: PLR0917  # Feast's signature
        self,
        config: RepoConfig,
        features: Features,
        entity_rows: EntityRows,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """As `get_online_features`."""
        plan = self._plans.get(config, registry, project, features, full_names=full_feature_names)
        if _is_precomputed(plan):
            return await super().get_online_features_async(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
        read = Read(plan, entity_rows, config.project)
        started = time.monotonic()
        replies = await self._connections.exchange_async(config.online_store, read.commands)
        metrics.track_online_store_read(time.monotonic() - started)
        return read.answer(replies, view_metadata=include_feature_view_version_metadata)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write the rows that are not older than what is stored, the newest of an entity last."""
        for write in Write.batches(config, table, data):
            stored = self._connections.exchange(config.online_store, write.questions())
            self._connections.exchange(config.online_store, write.commands(stored))
            if progress:
                progress(write.count)

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`."""
        for write in Write.batches(config, table, data):
            stored = await self._connections.exchange_async(config.online_store, write.questions())
            await self._connections.exchange_async(config.online_store, write.commands(stored))
            if progress:
                progress(write.count)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete the rows of one view, in this project."""
        encoding.require_version(config)
        writing.delete_view(self._get_client(config.online_store), config, table)

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Delete the rows of all views with these join encoding, in this project."""
        encoding.require_version(config)
        writing.delete_entities(self._get_client(config.online_store), config.project, [join_keys])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the rows of these views and of all others with the same join encoding, in this project."""
        del entities
        encoding.require_version(config)
        client = self._get_client(config.online_store)
        writing.delete_entities(client, config.project, [table.join_keys for table in tables])
        self._connections.close()

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self._connections.aclose()

    def _get_client(self, online_store_config: ConnectionConfig) -> Client:  # type: ignore[override]  # ours
        """Feast's own methods that are not overridden here ask for it."""
        return self._connections.client(online_store_config)

    async def _get_client_async(  # type: ignore[override]  # ours
        self, online_store_config: ConnectionConfig
    ) -> AsyncClient:
        return self._connections.async_client(online_store_config)


def _is_precomputed(plan: Plan) -> bool:
    """Whether Feast reads the whole service as one value, which it wrote itself."""
    features = plan.features
    return isinstance(features, FeatureService) and bool(features.precompute_online) and not plan.on_demand
