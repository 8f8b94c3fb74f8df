"""Feast's Ray engine, with feature views from Postgres written to Redis by the workers.

Named in `feature_store.yaml` as `batch_engine: {type: feast_plugins.ray.engine.TimescaleRayComputeEngine}`.
Each worker reads and writes one partition of the entities, so that no row passes through the calling process.
Other feature views go through Feast's own Ray nodes, see `feast_plugins.ray.nodes`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.common.serde import SerializedArtifacts
from feast.infra.compute_engines.ray.compute import RayComputeEngine
from feast.infra.compute_engines.ray.config import RayComputeEngineConfig
from feast.infra.compute_engines.ray.job import RayMaterializationJob

from feast_plugins.errors import ColumnTypesError
from feast_plugins.materialize.plan import partition
from feast_plugins.materialize.run import (
    WriteOptions,
    forget_earlier_meanings,
    materialization,
    supported_plan,
)
from feast_plugins.postgres.serving import serve
from feast_plugins.ray.nodes import StrictRayFeatureBuilder
from feast_plugins.ray.workers import count_workers, results_of
from feast_plugins.windows import database as declared
from feast_plugins.windows.declarations import HORIZON_TAG

if TYPE_CHECKING:
    from datetime import datetime

    from feast.infra.common.materialization_job import MaterializationJob
    from feast.infra.registry.base_registry import BaseRegistry

    from feast_plugins.materialize.plan import ViewPlan


class TimescaleRayComputeEngineConfig(WriteOptions, RayComputeEngineConfig):
    """Options of Feast's Ray engine, under this engine's type; `max_workers` is the number of partitions."""

    type: str = "feast_plugins.ray.engine.TimescaleRayComputeEngine"  # type: ignore[assignment]  # names the class


class TimescaleRayComputeEngine(RayComputeEngine):
    """Ray engine that reports failures, and writes the rows of the local engine."""

    def update(self, project: str, *args: Any, **kwargs: Any) -> None:
        """Make what declared views need, and let the service read what the views read."""
        super().update(project, *args, **kwargs)
        removed, views, _, entities = args
        declared.update(self.repo_config, project, removed, views)
        forget_earlier_meanings(self.online_store, self.repo_config, views)
        serve(self.repo_config, views, entities)

    def teardown_infra(self, project: str, *args: Any, **kwargs: Any) -> None:
        """Delete what declared views had."""
        super().teardown_infra(project, *args, **kwargs)
        views, *_ = args
        declared.teardown(self.repo_config, project, [view.name for view in views])

    def _materialize_one(
        self,
        registry: BaseRegistry,
        task: MaterializationTask,
        from_offline_store: bool = False,
        **kwargs: Any,
    ) -> MaterializationJob:
        del from_offline_store, kwargs  # deprecated in Feast
        name = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        plan = supported_plan(
            task.feature_view, self.repo_config, self.offline_store, self.online_store, registry
        )
        try:
            if plan is None or not self._write_partitions(task, plan):
                builder = StrictRayFeatureBuilder(registry, task.feature_view, task, self.config)
                builder.build().execute(self.get_execution_context(registry, task))
        except Exception as error:  # noqa: BLE001  # Feast raises it
            return RayMaterializationJob(job_id=name, status=MaterializationJobStatus.ERROR, error=error)
        return RayMaterializationJob(job_id=name, status=MaterializationJobStatus.SUCCEEDED)

    def _write_partitions(self, task: MaterializationTask, plan: ViewPlan) -> bool:
        """Write the view on the workers; False if its column types need Feast's nodes."""
        artifacts = SerializedArtifacts.serialize(task.feature_view, self.repo_config)
        is_divided = plan.source.keys and HORIZON_TAG not in (task.feature_view.tags or {})
        count = count_workers(self.config) if is_divided else 1
        times = (task.start_time, task.end_time)
        tasks = [_write_partition.remote(artifacts, plan, times, number, count) for number in range(count)]
        bar = task.tqdm_builder(0) if task.tqdm_builder else None
        if bar is not None:
            bar.set_description_str(task.feature_view.name)
        try:
            for rows in results_of(tasks):
                if bar is not None:
                    bar.update(rows)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ColumnTypesError):
                return False
            raise
        finally:
            if bar is not None:
                bar.close()
        return True


@ray.remote
def _write_partition(
    artifacts: SerializedArtifacts, plan: ViewPlan, times: tuple[datetime, datetime], number: int, count: int
) -> int:
    """Materialize partition `number` (from 0) of `count`, and return its number of rows."""
    view, online, _, config = artifacts.unserialize()
    task = MaterializationTask(config.project, view, *times)
    if count > 1:
        plan = replace(plan, source=partition(plan.source, number, count))
    row_counts: list[int] = []
    materialization(task, plan, config, online, progress=row_counts.append).run()
    return sum(row_counts)
