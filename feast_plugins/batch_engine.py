"""Feast batch engine that materializes from Postgres to Redis as columns.

Named in `feature_store.yaml` as `batch_engine: {type: feast_plugins.batch_engine.ArrowComputeEngine}`. The
newest row of each entity is selected in SQL, read as Arrow and written as commands of the Redis protocol. No
value becomes a Python object, and Redis holds the same bytes as with Feast's own engine. Transformed views,
and views of other sources or other online stores, go through Feast's local engine.
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
from feast_plugins.materialize.run import (
    Cancellation,
    WriteOptions,
    checkpoint_key,
    client_of,
    forget_earlier_meanings,
    materialization,
    supported_plan,
)
from feast_plugins.postgres.serving import serve
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureView
    from feast.infra.common.materialization_job import MaterializationJob, MaterializationTask
    from feast.infra.registry.base_registry import BaseRegistry

    from feast_plugins.materialize.plan import ViewPlan


#: How far a client's clock may be ahead of this one.
_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)


class ArrowComputeEngineConfig(WriteOptions, LocalComputeEngineConfig):
    """Options of the engine, and those of the local engine it falls back to."""

    type: str = "feast_plugins.batch_engine.ArrowComputeEngine"  # type: ignore[assignment]  # names the class

    views_at_once: int = Field(2, ge=1)
    """Feature views that are materialized at the same time."""

    resume_seconds: float = Field(3600, ge=0)
    """Seconds within which a killed run can be resumed; at most a tenth of `key_ttl_seconds`.

    Requires that every write or correction of a row renews the source's `created_timestamp_column`. Set 0
    where it does not: a killed run is then repeated from its start.
    """


class ArrowComputeEngine(LocalComputeEngine):
    """Local engine that writes views of Postgres to Redis as whole columns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.options: ArrowComputeEngineConfig = self.repo_config.batch_engine

    @property
    def supports_batch(self) -> bool:
        """True: Feast passes all feature views of a call at once."""
        return True

    def materialize(
        self,
        registry: BaseRegistry,
        tasks: MaterializationTask | list[MaterializationTask],
        **kwargs: Any,
    ) -> list[MaterializationJob]:
        """Materialize the tasks, `views_at_once` in parallel; a failed task does not end the others.

        Raises:
            MaterializationEndError: a task, or an earlier run, ends in the future. Nothing is written.
        """
        all_tasks = tasks if isinstance(tasks, list) else [tasks]
        latest = datetime.now(UTC) + _CLOCK_DIFFERENCE
        for task in all_tasks:
            start, end = make_tzaware(task.start_time), make_tzaware(task.end_time)
            if end > latest or start > latest:
                raise MaterializationEndError(task.feature_view.name, start, end)
        cancellation = Cancellation()
        plans = {index: plan for index, task in enumerate(all_tasks) if (plan := self._plan(task, registry))}
        if plans:
            self._client()  # created here, as two threads could create two
        jobs: dict[int, LocalMaterializationJob | None] = {}
        with ThreadPoolExecutor(self.options.views_at_once, "materialize") as pool:
            futures = {
                index: pool.submit(self._run, all_tasks[index], plan, cancellation)
                for index, plan in plans.items()
            }
            try:
                jobs = {index: future.result() for index, future in futures.items()}
            except BaseException:
                cancellation.set()
                raise
        # sequential: transformations and other stores need not be thread-safe
        return [
            jobs.get(index) or self._materialize_one(registry, task, **kwargs)
            for index, task in enumerate(all_tasks)
        ]

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        views_to_keep: Sequence[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Make what declared views need, and let the service read what the views read.

        Deletes the checkpoints of deleted views, and online rows of what was declared differently.

        Raises:
            DeclarationError: a declared view cannot be made.
            DeclarationLossError: stored values would be deleted, and nobody has allowed it.
        """
        super().update(project, views_to_delete, views_to_keep, *args, **kwargs)
        declared.update(self.repo_config, project, views_to_delete, views_to_keep)
        self._delete_checkpoints(project, views_to_delete)
        forget_earlier_meanings(self.online_store, self.repo_config, views_to_keep)
        serve(self.repo_config, views_to_keep, args[1])

    def teardown_infra(self, project: str, fvs: Sequence[FeatureView], *args: Any, **kwargs: Any) -> None:
        """Delete what declared views had, and the checkpoints of the views."""
        super().teardown_infra(project, fvs, *args, **kwargs)
        declared.teardown(self.repo_config, project, [view.name for view in fvs])
        self._delete_checkpoints(project, fvs)

    def _delete_checkpoints(self, project: str, views: Sequence[FeatureView]) -> None:
        if views and isinstance(self.online_store, RedisOnlineStore):
            for view in views:
                self._client().delete(checkpoint_key(project, _versioned_fv_name(view, self.repo_config)))

    def _run(
        self, task: MaterializationTask, plan: ViewPlan, cancellation: Cancellation
    ) -> LocalMaterializationJob | None:
        """The finished job; None if the column types need Feast's engine."""
        name = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(task, plan, cancellation)
        except ColumnTypesError:
            return None
        except Exception as error:  # noqa: BLE001  # Feast raises it after all views
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _write(self, task: MaterializationTask, plan: ViewPlan, cancellation: Cancellation) -> None:
        bar = task.tqdm_builder(0) if task.tqdm_builder else None
        if bar is not None:
            bar.set_description_str(task.feature_view.name)
        try:
            materialization(
                task,
                plan,
                self.repo_config,
                self.online_store,
                progress=bar.update if bar is not None else lambda _: None,
                resume_s=self.options.resume_seconds,
                cancellation=cancellation,
            ).run()
        finally:
            if bar is not None:
                bar.close()

    def _plan(self, task: MaterializationTask, registry: BaseRegistry) -> ViewPlan | None:
        return supported_plan(
            task.feature_view, self.repo_config, self.offline_store, self.online_store, registry
        )

    def _client(self) -> Any:
        return client_of(self.online_store, self.repo_config)
