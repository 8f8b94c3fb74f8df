"""Feast batch engine that materializes from Postgres to Redis as columns.

Named in `feature_store.yaml` as `batch_engine: {type: feast_plugins.batch_engine.ArrowComputeEngine}`. The
newest row of each entity is picked in SQL, read as Arrow and written as commands of the Redis protocol. No
value becomes a Python object, and Redis holds the same bytes as with Feast's own engine. Views it cannot
do, such as transformed ones, those of other sources and of other online stores, go through Feast's local
engine.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feast.infra.common.materialization_job import MaterializationJobStatus
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore
from feast.infra.online_stores.redis import RedisOnlineStore, _versioned_fv_name
from feast.utils import make_tzaware
from pydantic import Field

from feast_plugins.errors import ColumnTypesError, HistoryNotKnownError
from feast_plugins.materialize.checkpoint import key_of
from feast_plugins.materialize.plan import plan
from feast_plugins.materialize.rows import Encoder
from feast_plugins.materialize.run import Materialization
from feast_plugins.offline_store import TimescaleOfflineStore
from feast_plugins.online_store import CorrectableRedisOnlineStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureView
    from feast.infra.common.materialization_job import MaterializationJob, MaterializationTask
    from feast.infra.registry.base_registry import BaseRegistry

    from feast_plugins.materialize.plan import ViewPlan

#: Stores whose ways of reading and writing are known here; of those that override them nothing is.
_PULLS = (
    PostgreSQLOfflineStore.pull_latest_from_table_or_query,
    TimescaleOfflineStore.pull_latest_from_table_or_query,
)
_WRITES = (RedisOnlineStore.online_write_batch, CorrectableRedisOnlineStore.online_write_batch)


class ArrowComputeEngineConfig(LocalComputeEngineConfig):
    """Options of the engine, beside those of the local engine it falls back to."""

    type: str = "feast_plugins.batch_engine.ArrowComputeEngine"  # type: ignore[assignment]  # names the class

    views_at_once: int = Field(2, ge=1)
    """Feature views that are materialized at the same time."""

    batch_rows: int = Field(10_000, ge=1)
    """Rows that are encoded and sent at once; Feast's `online_write_batch_size` goes before."""

    redis_timeout_seconds: float = Field(60, gt=0)
    """How long Redis may be silent before a materialization fails."""

    resume_seconds: float = Field(3600, ge=0)
    """How long a run that was killed may be resumed where it was; at most a tenth of `key_ttl_seconds`.

    Relies on the created_timestamp_column of the source: a row that is written or corrected after others were
    read has a newer one. 0 if that is not so: a killed run is then repeated from its start.
    """


class ArrowComputeEngine(LocalComputeEngine):
    """Local engine with a fast way from Postgres to Redis."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.options: ArrowComputeEngineConfig = self.repo_config.batch_engine

    @property
    def supports_batch(self) -> bool:
        """All feature views of a call come at once."""
        return True

    def materialize(
        self,
        registry: BaseRegistry,
        tasks: MaterializationTask | list[MaterializationTask],
        **kwargs: Any,
    ) -> list[MaterializationJob]:
        """Materialize the tasks, some at the same time; one's failure ends none of the others."""
        every = tasks if isinstance(tasks, list) else [tasks]
        stop = threading.Event()
        fast = {at: way for at, task in enumerate(every) if (way := self._plan(task))}
        if fast:
            self._client()  # made before there are threads to make two of it
        done: dict[int, LocalMaterializationJob | None] = {}
        with ThreadPoolExecutor(self.options.views_at_once, "materialize") as pool:
            started = {at: pool.submit(self._run, every[at], way, stop) for at, way in fast.items()}
            try:
                done = {at: job.result() for at, job in started.items()}
            except BaseException:
                stop.set()
                raise
        # one after another: transformations and other stores may know nothing of threads
        return [
            done.get(at) or self._materialize_one(registry, task, **kwargs) for at, task in enumerate(every)
        ]

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Forget how far materializations of deleted views came: their rows are gone."""
        super().update(project, views_to_delete, *args, **kwargs)
        self._forget(project, views_to_delete)

    def teardown_infra(self, project: str, fvs: Sequence[FeatureView], *args: Any, **kwargs: Any) -> None:
        """Forget how far materializations came."""
        super().teardown_infra(project, fvs, *args, **kwargs)
        self._forget(project, fvs)

    def _forget(self, project: str, views: Sequence[FeatureView]) -> None:
        if views and isinstance(self.online_store, RedisOnlineStore):
            for view in views:
                self._client().delete(key_of(project, _versioned_fv_name(view, self.repo_config)))

    def _client(self) -> Any:
        store: Any = self.online_store
        return store._get_client(self.repo_config.online_store)  # noqa: SLF001  # nobody else connects as it does

    def _plan(self, task: MaterializationTask) -> ViewPlan | None:
        """The fast way, if it does what the configured stores do."""
        stores_known = (
            type(self.online_store).online_write_batch in _WRITES
            and type(self.offline_store).pull_latest_from_table_or_query in _PULLS
        )
        return plan(task.feature_view, self.repo_config) if stores_known else None

    def _run(
        self, task: MaterializationTask, way: ViewPlan, stop: threading.Event
    ) -> LocalMaterializationJob | None:
        """The finished job; None if Feast's engine must do it."""
        name = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(task, way, stop)
        except ColumnTypesError:
            return None
        except Exception as error:  # noqa: BLE001  # Feast raises it when all views are done
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _write(self, task: MaterializationTask, way: ViewPlan, stop: threading.Event) -> None:
        offline, online = self.repo_config.offline_store, self.repo_config.online_store
        if getattr(offline, "known_at", None) is not None:
            raise HistoryNotKnownError(
                "This store shows features as known at an earlier time, which are nothing to serve. "
                "Materialize without `known_at`."
            )
        correctable = isinstance(self.online_store, CorrectableRedisOnlineStore)
        late = timedelta(seconds=getattr(offline, "late_seconds", 0))
        bar = task.tqdm_builder(0) if task.tqdm_builder else None
        try:
            Materialization(
                Encoder(
                    way,
                    task.feature_view,
                    task.project,
                    check=correctable or not online.skip_dedup,
                    replace_equal=correctable,
                ),
                offline,
                self._client(),
                make_tzaware(task.start_time) - late,
                make_tzaware(task.end_time),
                query_s=getattr(offline, "statement_timeout_s", None),
                batch_rows=self.repo_config.materialization_config.online_write_batch_size
                or self.options.batch_rows,
                timeout_s=self.options.redis_timeout_seconds,
                resume_s=self.options.resume_seconds,
                progress=bar.update if bar is not None else lambda _: None,
                stop=stop,
            ).run()
        finally:
            if bar is not None:
                bar.close()
