"""Metrics as they were sealed with a version: `metrics.json` of its folder, checked against its manifest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.gates.facts import sealed_document

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def read(records: Iterable[Record], tenant: str) -> tuple[dict[int, Metrics], dict[int, str]]:
    """Sealed metrics by version, and why those of the others cannot be read.

    Versions that were registered without a folder of their own are in neither.
    """
    wanted = [
        (record.version, record.location, record.manifest_sha256)
        for record in records
        if record.version is not None and record.location and record.manifest_sha256
    ]
    found: dict[int, Metrics] = {}
    problems: dict[int, str] = {}

    def one(version: int, location: str, sealed: str) -> None:
        try:
            found[version] = _read(tenant, location, sealed)
        except MlflowException as error:
            problems[version] = str(error.message)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        for waiting in [pool.submit(one, *item) for item in wanted]:
            waiting.result()
    return found, problems


@lru_cache(_REMEMBERED)
def _read(tenant: str, location: str, sealed: str) -> Metrics:
    # what a seal stands for never changes, so no page need fetch it twice; promotion always reads the files
    destination = current_destination()
    return (
        sealed_document(destination.folder(location, tenant), sealed, manifest.METRICS) if destination else {}
    )
