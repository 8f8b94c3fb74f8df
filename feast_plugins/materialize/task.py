"""Feast's materialization tasks as materializations of this package, for any engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import FeastConfigBaseModel
from feast.utils import make_tzaware
from pydantic import Field

from feast_plugins.errors import HistoryNotKnownError
from feast_plugins.materialize.plan import ViewPlan, plan
from feast_plugins.materialize.rows import Encoder
from feast_plugins.materialize.run import Materialization
from feast_plugins.materialize.stop import Stop
from feast_plugins.offline_store import TimescaleOfflineStore
from feast_plugins.online.writing import expiry
from feast_plugins.online_store import CorrectableRedisOnlineStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore, FeatureView, RepoConfig
    from feast.infra.offline_stores.offline_store import OfflineStore
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.infra.registry.base_registry import BaseRegistry

#: Stores whose ways of reading and writing are known here; of those that override them nothing is.
_PULLS = (
    PostgreSQLOfflineStore.pull_latest_from_table_or_query,
    TimescaleOfflineStore.pull_latest_from_table_or_query,
)
_WRITES = (RedisOnlineStore.online_write_batch, CorrectableRedisOnlineStore.online_write_batch)


class WriteOptions(FeastConfigBaseModel):
    """Options of every engine that writes this way."""

    batch_rows: int = Field(10_000, ge=1)
    """Rows that are encoded and sent at once; Feast's `online_write_batch_size` goes before."""

    redis_timeout_seconds: float = Field(60, gt=0)
    """How long Redis may be silent before a materialization fails."""


def way_of(
    view: FeatureView,
    config: RepoConfig,
    offline: OfflineStore,
    online: OnlineStore,
    registry: BaseRegistry,
) -> ViewPlan | None:
    """The fast way of a feature view, if there is one that does what the stores do."""
    known = (
        type(online).online_write_batch in _WRITES and type(offline).pull_latest_from_table_or_query in _PULLS
    )
    found = plan(view, config) if known else None
    if found is None or not isinstance(online, CorrectableRedisOnlineStore):
        return found
    # views with the same keys share a hash, which lives as long as the most patient of them wants
    views = registry.list_feature_views(config.project, allow_cache=True)
    lives = [expiry(found.ttl_seconds, each) or 0 for each in (view, *views)]
    return replace(found, ttl_seconds=max(lives) or None)


def client_of(online: OnlineStore, config: RepoConfig) -> Any:
    """The Redis client of the online store."""
    store: Any = online
    return store._get_client(config.online_store)  # noqa: SLF001  # nobody else connects as it does


def writer_of(store: FeatureStore, view: FeatureView) -> Materialization | None:
    """What writes rows of a feature view that are read elsewhere; None: only Feast itself can."""
    config, provider = store.config, store._get_provider()  # noqa: SLF001  # Feast has no public way to it
    offline, online = provider.offline_store, provider.online_store
    way = way_of(view, config, offline, online, store.registry)
    if way is None or not isinstance(config.batch_engine, WriteOptions):
        return None
    now = datetime.now(UTC)
    task = MaterializationTask(store.project, view, now, now, tqdm_builder=None)
    return materialization(task, way, config, online, progress=lambda _: None)


def materialization(
    task: MaterializationTask,
    way: ViewPlan,
    config: RepoConfig,
    online: OnlineStore,
    *,
    progress: Callable[[int], Any],
    resume_s: float = 0,
    stop: Stop | None = None,
) -> Materialization:
    """What the task asks for, ready to run.

    Raises:
        HistoryNotKnownError: the offline store is open as of an earlier time.
    """
    store, options = config.offline_store, config.batch_engine
    if getattr(store, "known_at", None) is not None:
        raise HistoryNotKnownError(
            "This store shows features as known at an earlier time, which are nothing to serve. "
            "Materialize without `known_at`."
        )
    correctable = isinstance(online, CorrectableRedisOnlineStore)
    return Materialization(
        Encoder(
            way,
            task.feature_view,
            task.project,
            check=correctable or not config.online_store.skip_dedup,
            replace_equal=correctable,
        ),
        store,
        client_of(online, config),
        make_tzaware(task.start_time) - timedelta(seconds=getattr(store, "late_seconds", 0)),
        make_tzaware(task.end_time),
        query_s=getattr(store, "statement_timeout_s", None),
        batch_rows=config.materialization_config.online_write_batch_size or options.batch_rows,
        timeout_s=options.redis_timeout_seconds,
        resume_s=resume_s,
        progress=progress,
        stop=stop or Stop(),
    )
