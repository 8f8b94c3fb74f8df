"""Metrics of versions as the gates see them: those in their folders, and those their runs recorded since."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.gates.context import present_metrics, verified_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow_plugins.registration.records import Record

Metrics = dict[str, float | None]

_PARALLEL: Final = 8
_REMEMBERED: Final = 5000


@dataclass(frozen=True)
class Comparison:
    """One metric of a candidate beside production's."""

    metric: str
    candidate: float | None
    production: float | None

    @property
    def change(self) -> float | None:
        """Candidate against production in per cent of production; None where that has no meaning."""
        if self.candidate is None or not self.production:
            return None
        return (self.candidate - self.production) / abs(self.production) * 100

    @property
    def direction(self) -> str | None:
        """`higher`, `lower` or `equal`; None when one of them is missing."""
        if self.candidate is None or self.production is None:
            return None
        if self.candidate == self.production:
            return "equal"
        return "higher" if self.candidate > self.production else "lower"


def compare(candidate: Metrics, production: Metrics) -> list[Comparison]:
    """Every metric either of them has, by name."""
    names = sorted(candidate.keys() | production.keys())
    return [Comparison(name, candidate.get(name), production.get(name)) for name in names]


def read(
    records: Iterable[Record], origins: Mapping[int, tuple[str | None, str, str | None]], tenant: str
) -> tuple[dict[int, Metrics], dict[int, str]]:
    """Metrics by version, and why those of the others cannot be read.

    Versions that were registered without a folder of their own are in neither.

    Args:
        records: what is known about their folders.
        origins: tag `ai_hub.metrics`, source and run of each version.
        tenant: whose they are.
    """
    wanted = [
        (record.version, record.location, record.manifest_sha256)
        for record in records
        if record.version is not None and record.location and record.manifest_sha256
    ]
    found: dict[int, Metrics] = {}
    problems: dict[int, str] = {}

    def one(item: tuple[int, str, str]) -> None:
        version, location, digest = item
        try:
            found[version] = present_metrics(_read(tenant, location, digest), *origins[version])
        except MlflowException as error:
            problems[version] = str(error.message)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        # the request's tenant goes along into the threads
        for waiting in [pool.submit(copy_context().run, one, item) for item in wanted]:
            waiting.result()
    return found, problems


@lru_cache(_REMEMBERED)
def _read(tenant: str, location: str, digest: str) -> Metrics:
    # what a digest stands for never changes, so no page need fetch it twice; promotion always reads the files
    destination = current_destination()
    return (
        verified_document(destination.folder(location, tenant), digest, manifest.METRICS)
        if destination
        else {}
    )
