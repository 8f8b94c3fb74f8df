"""Number of Ray workers, and results of their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feast.infra.compute_engines.ray.config import RayComputeEngineConfig


def count_workers(config: RayComputeEngineConfig) -> int:
    """Tasks that run in parallel: `max_workers`, or the CPUs of the cluster."""
    return int(config.max_workers or ray.cluster_resources().get("CPU", 1))


def results_of(tasks: Sequence[Any]) -> Iterator[Any]:
    """Results in the order of completion; the first failure cancels the pending tasks."""
    pending = list(tasks)
    try:
        while pending:
            (task,), pending = ray.wait(pending)
            yield ray.get(task)
    except BaseException:
        for task in pending:
            ray.cancel(task)
        raise
