"""Candidates for gates, without a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_plugins.gates.gate import Candidate, VersionInfo
from mlflow_plugins.users.permissions import claimed

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000


def info(
    version: int = 2,
    *,
    metrics: Mapping[str, float | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> VersionInfo:
    """What is known about a version."""
    return VersionInfo(version, f"v1.0.{version - 1}", lambda: metrics or {}, lambda: metadata or {})


def candidate(
    metrics: Mapping[str, float | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **changed: Any,
) -> Candidate:
    """Version 2 wants to be the first in Production; `changed` says what is otherwise."""
    usual: dict[str, Any] = {
        "tenant": "city-works",
        "model": "demand",
        "info": info(metrics=metrics, metadata=metadata),
        "rollback": False,
        "actor": claimed("grace"),
        "reason": None,
        "registered_by": "ada",
        "staged_at_ms": NOW_MS - 2 * HOUR_MS,
        "now_ms": NOW_MS,
        "verify": lambda **_: None,
        "find_production": lambda: None,
    }
    return Candidate(**{**usual, **changed})
