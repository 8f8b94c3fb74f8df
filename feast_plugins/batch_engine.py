"""Feast batch engine that materializes from Postgres to Redis as columns.

Named in `feature_store.yaml` as `batch_engine: {type: feast_plugins.batch_engine.ArrowComputeEngine}`. The
newest row of each entity is picked in SQL, read as Arrow and written as commands of the Redis protocol. No
value becomes a Python object, and Redis holds the same bytes as with Feast's own engine. Views it cannot
do, such as transformed ones, those of other sources and of other online stores, go through Feast's local
engine.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from feast.infra.common.materialization_job import MaterializationJobStatus
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisOnlineStore, _versioned_fv_name
from feast.utils import make_tzaware
from pydantic import Field

from feast_plugins.errors import ColumnTypesError, MaterializationEndError
from feast_plugins.materialize.run import Stop, WriteOptions, client_of, key_of, materialization, way_of
from feast_plugins.postgres.serving import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureView
    from feast.infra.common.materialization_job import MaterializationJob, MaterializationTask
    from feast.infra.registry.base_registry import BaseRegistry

    from feast_plugins.materialize.plan import ViewPlan


#: How far the clocks of those who ask may be ahead of this one.
_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)


class ArrowComputeEngineConfig(WriteOptions, LocalComputeEngineConfig):
    """Options of the engine, beside those of the local engine it falls back to."""

    type: str = "feast_plugins.batch_engine.ArrowComputeEngine"  # type: ignore[assignment]  # names the class

    views_at_once: int = Field(2, ge=1)
    """Feature views that are materialized at the same time."""

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
        """Materialize the tasks, some at the same time; one's failure ends none of the others.

        Raises:
            MaterializationEndError: a task ends in the future, or an earlier run did. Nothing is written.
        """
        every = tasks if isinstance(tasks, list) else [tasks]
        latest = datetime.now(UTC) + _CLOCK_DIFFERENCE
        for task in every:
            start, end = make_tzaware(task.start_time), make_tzaware(task.end_time)
            if end > latest or start > latest:
                raise MaterializationEndError(task.feature_view.name, start, end)
        stop = Stop()
        fast = {at: way for at, task in enumerate(every) if (way := self._way(task, registry))}
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
        views_to_keep: Sequence[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Let the service read what the views read; forget how far materializations of deleted views came."""
        super().update(project, views_to_delete, views_to_keep, *args, **kwargs)
        self._forget(project, views_to_delete)
        serve(self.repo_config, views_to_keep, args[1])

    def teardown_infra(self, project: str, fvs: Sequence[FeatureView], *args: Any, **kwargs: Any) -> None:
        """Forget how far materializations came."""
        super().teardown_infra(project, fvs, *args, **kwargs)
        self._forget(project, fvs)

    def _forget(self, project: str, views: Sequence[FeatureView]) -> None:
        if views and isinstance(self.online_store, RedisOnlineStore):
            for view in views:
                self._client().delete(key_of(project, _versioned_fv_name(view, self.repo_config)))

    def _run(self, task: MaterializationTask, way: ViewPlan, stop: Stop) -> LocalMaterializationJob | None:
        """The finished job; None if Feast's engine must do it."""
        name = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(task, way, stop)
        except ColumnTypesError:
            return None
        except Exception as error:  # noqa: BLE001  # Feast raises it when all views are done
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _write(self, task: MaterializationTask, way: ViewPlan, stop: Stop) -> None:
        bar = task.tqdm_builder(0) if task.tqdm_builder else None
        if bar is not None:
            bar.set_description_str(task.feature_view.name)
        try:
            materialization(
                task,
                way,
                self.repo_config,
                self.online_store,
                progress=bar.update if bar is not None else lambda _: None,
                resume_s=self.options.resume_seconds,
                stop=stop,
            ).run()
        finally:
            if bar is not None:
                bar.close()

    def _way(self, task: MaterializationTask, registry: BaseRegistry) -> ViewPlan | None:
        return way_of(task.feature_view, self.repo_config, self.offline_store, self.online_store, registry)

    def _client(self) -> Any:
        return client_of(self.online_store, self.repo_config)
