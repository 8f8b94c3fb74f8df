"""What a gate may ask about: the candidate, who wants it in Production, and what it would displace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlflow_plugins.people.actor import Actor


@dataclass(frozen=True)
class Facts:
    """What is known about a version, read when it is first asked for.

    Its sealed folder counts, since its run may have changed meanwhile; metrics that were recorded after the
    registration are added. A version without a folder is described by its run.
    """

    version: int
    semantic_version: str | None
    read_metrics: Callable[[], Mapping[str, float | None]]
    read_metadata: Callable[[], Mapping[str, Any]]
    run_id: str | None = None

    @cached_property
    def metrics(self) -> Mapping[str, float | None]:
        """Last value of each metric; None for one that was no finite number (see `facts.present_metrics`)."""
        return self.read_metrics()

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What `metadata.json` says."""
        return self.read_metadata()

    @property
    def signature(self) -> Mapping[str, Any]:
        """The model's signature, its halves `inputs` and `outputs` as lists of columns; empty without one."""
        return self.metadata.get("signature") or {}

    def __str__(self) -> str:
        return f"version {self.version}" + (f" ({self.semantic_version})" if self.semantic_version else "")


@dataclass(frozen=True)
class Candidacy:
    """A wish to move a version into Production, and everything gates judge it by; times in UTC ms."""

    tenant: str
    model: str
    facts: Facts
    #: Whether an archived version that was in Production before is to come back.
    rollback: bool
    actor: Actor
    reason: str | None
    #: Who registered the version; None when nobody is known to have.
    registered_by: str | None
    staged_at_ms: int | None
    now_ms: int
    #: Checks every file against the version's manifest and returns that as evidence; None without a manifest.
    verify: Callable[[], dict[str, Any] | None]
    find_production: Callable[[], Facts | None]

    @property
    def version(self) -> int:
        """MLflow's number of the candidate."""
        return self.facts.version

    @cached_property
    def production(self) -> Facts | None:
        """The version it would displace; None when nothing is in Production."""
        return self.find_production()

    @property
    def asked_for_production(self) -> bool:
        """Whether a gate looked at `production`, so that its verdict holds for this one only."""
        return "production" in vars(self)

    @property
    def authors(self) -> frozenset[str]:
        """Who registered the version, and the user of the run it came from, as far as they are known."""
        return frozenset(name for name in (self.registered_by, self.facts.metadata.get("author")) if name)
