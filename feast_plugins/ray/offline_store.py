"""Offline store whose history is joined by the workers of a Ray cluster.

Named in `feature_store.yaml` as `type: feast_plugins.ray.offline_store.TimescaleRayOfflineStore`, beside the
Ray engine whose cluster it uses. Each worker joins the entity rows of one partition of the entities as
`TimescaleOfflineStore` does, so results are the same. Everything else, such as history of a range of time, is
inherited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import dill
import numpy as np
import pandas as pd
import pyarrow as pa
import ray
from feast.infra.compute_engines.ray.config import RayComputeEngineConfig
from feast.infra.offline_stores import offline_utils
from feast.infra.ray_initializer import ensure_ray_initialized

from feast_plugins.errors import RayEngineMissingError
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.jobs import JoinJob
from feast_plugins.offline_store import TimescaleOfflineStore, TimescaleOfflineStoreConfig
from feast_plugins.ray.workers import count_workers, results_of
from feast_plugins.registry import Store

if TYPE_CHECKING:
    from collections.abc import Collection

    from feast.feature_view import FeatureView
    from feast.infra.offline_stores.offline_store import RetrievalJob
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig
    from numpy.typing import NDArray


class TimescaleRayOfflineStoreConfig(TimescaleOfflineStoreConfig):
    """Options of `TimescaleOfflineStore`, under this store's type."""

    type: str = "feast_plugins.ray.offline_store.TimescaleRayOfflineStore"


class TimescaleRayOfflineStore(TimescaleOfflineStore):
    """Postgres store that joins on Ray's workers."""

    @staticmethod
    def get_historical_features(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """History for a frame or an SQL query of entity rows on Ray; as in `TimescaleOfflineStore` without.

        Raises:
            RayEngineMissingError: `batch_engine` is not a Ray engine.
        """
        engine = config.batch_engine
        if not isinstance(engine, RayComputeEngineConfig):
            raise RayEngineMissingError
        keys = offline_utils.get_expected_join_keys(project, feature_views, registry)
        if isinstance(entity_df, str):
            # the query runs once; the rows keep their Arrow types
            rows = Entities.of(config, entity_df, keys).table
            entity_df = rows.to_pandas(types_mapper=pd.ArrowDtype)
        rest = (full_feature_names, filter_by_created_timestamp)
        local = TimescaleOfflineStore.get_historical_features(
            config, feature_views, feature_refs, entity_df, registry, project, *rest, **kwargs
        )
        if entity_df is None or not isinstance(local, JoinJob) or local.metadata is None:
            return local
        request = _Request(dill.dumps((config, feature_views, feature_refs, project, *rest)))
        return JoinJob(
            config.offline_store,
            partial(request.join, cast("pd.DataFrame", entity_df), keys, engine),
            query=local.to_sql,
            full_feature_names=full_feature_names,
            on_demand_feature_views=local.on_demand_feature_views,
            metadata=local.metadata,
        )


@dataclass(frozen=True)
class _Request:
    """The pickled request, which the workers share."""

    pickled: bytes

    def join(
        self,
        frame: pd.DataFrame,
        keys: Collection[str],
        engine: RayComputeEngineConfig,
        timeout_s: float | None,
    ) -> pa.Table:
        """Entity rows of `frame`, in its order, with their features, joined by the workers."""
        ensure_ray_initialized(engine)
        partitions = [
            positions for positions in _partitions(frame, keys, count_workers(engine)) if len(positions)
        ]
        if not partitions:
            return self.join_here(frame, timeout_s)
        shared = ray.put(self)
        tasks = [
            _join_partition.remote(shared, frame.iloc[positions], number, timeout_s)
            for number, positions in enumerate(partitions)
        ]
        results = dict(results_of(tasks))
        tables = [results[number] for number in range(len(partitions))]
        joined = pa.concat_tables(tables, promote_options="permissive")
        return joined.take(pa.array(np.argsort(np.concatenate(partitions))))

    def join_here(self, frame: pd.DataFrame, timeout_s: float | None) -> pa.Table:
        """Entity rows of `frame` with their features, joined in this process."""
        config, views, refs, project, *rest = dill.loads(self.pickled)  # noqa: S301  # made above
        registry = Store(config=config).registry
        job = TimescaleOfflineStore.get_historical_features(
            config, views, refs, frame, registry, project, *rest
        )
        with cast("JoinJob", job).batches(timeout_s) as batches:
            return batches.read_all()


@ray.remote
def _join_partition(
    request: _Request, frame: pd.DataFrame, number: int, timeout_s: float | None
) -> tuple[int, pa.Table]:
    return number, request.join_here(frame, timeout_s)


def _partitions(frame: pd.DataFrame, keys: Collection[str], count: int) -> list[NDArray[np.int64]]:
    """Positions of the rows of each partition; an entity is in one, so its feature rows are read once."""
    if keys:
        hashed = pd.util.hash_pandas_object(frame[sorted(keys)].astype(str), index=False).to_numpy()
    else:
        hashed = np.arange(len(frame), dtype=np.uint64)
    return [np.flatnonzero(hashed % np.uint64(count) == number) for number in range(count)]
