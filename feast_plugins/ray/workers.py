"""How many workers there are, and what they are done with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feast.infra.compute_engines.ray.config import RayComputeEngineConfig


def count_workers(config: RayComputeEngineConfig) -> int:
    """Tasks that may run at once: `max_workers`, or the processors of the cluster."""
    return int(config.max_workers or ray.cluster_resources().get("CPU", 1))


def finished(tasks: Sequence[Any]) -> Iterator[Any]:
    """Results in the order in which they come; the first failure cancels what has not ended."""
    waiting = list(tasks)
    try:
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    except BaseException:
        for task in waiting:
            ray.cancel(task)
        raise
