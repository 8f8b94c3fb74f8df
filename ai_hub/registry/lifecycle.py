"""Promotion, rollback, deletion, gates and the audit trail of a tenant's model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.registry.server import call, model_path, require_server
from ai_hub.registry.tenants import check_name
from ai_hub.registry.versions import LATEST, find_version
from ai_hub.times import from_millis, to_millis
from mlflow_plugins.gates.assessment import Assessment, GateResult
from mlflow_plugins.lifecycle import rules


@dataclass(frozen=True)
class Transition:
    """A change of stage; `from_stage` is None on registration.

    `actor_source` says how far to trust `actor`: authenticated, claimed or unknown.
    """

    version: int
    semantic_version: str | None
    from_stage: str | None
    to_stage: str
    actor: str
    actor_source: str
    reason: str | None
    evidence: dict[str, Any]
    at: datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Transition:
        """Read what the server sends."""
        at = from_millis(row["at_ms"])
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name != "at"}, at=at)


__all__ = ["Assessment", "GateResult", "gates"]


def gates(tenant: str, model: str, version: str | int = LATEST, *, reason: str | None = None) -> Assessment:
    """What promoting a version (see `find_version`) would meet now, if this user did it for this reason.

    Raises:
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    path = f"{model_path(model)}/versions/{chosen.version}/gates"
    parameters: dict[str, Any] = {} if reason is None else {"reason": reason}
    return Assessment.from_json(call("GET", path, tenant=tenant, params=parameters))


#: Seconds the server may take to read (or delete) every file of a version.
_CHECK_S: Final = 300


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback did: the version's own transition, and those of whom it displaced."""

    model: str
    own: Transition
    displaced: tuple[Transition, ...]


def promote(
    tenant: str,
    model: str,
    version: str | int = LATEST,
    *,
    stage: str = rules.PRODUCTION,
    reason: str | None = None,
    expected: str | None = None,
) -> Move:
    """Move a version to `stage` (see `find_version` for `version`), from `expected` if that is given.

    Raises:
        ConflictError: the registry refuses, with its reason.
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    path = f"{model_path(model)}/versions/{chosen.version}/stage"
    return _move(tenant, model, path, {"stage": stage, "reason": reason, "expected": expected})


def rollback(tenant: str, model: str, *, version: str | int | None = None, reason: str | None = None) -> Move:
    """Put the version that was in Production before (or `version`, which was once) back into Production.

    Raises:
        ConflictError: there is nothing to roll back to, or the registry refuses.
        NotFoundError: no such tenant, model or version.
    """
    require_server()
    number = None if version is None else find_version(tenant, model, version).version
    return _move(tenant, model, f"{model_path(model)}/rollback", {"version": number, "reason": reason})


def delete(
    tenant: str, model: str, version: str | int, *, force: bool = False, reason: str | None = None
) -> list[str]:
    """Delete an archived version (`force`: one in any stage) for good; returns the files deleted.

    Raises:
        ConflictError: it is not archived.
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    parameters = {"force": str(force).lower(), **({"reason": reason} if reason else {})}
    path = f"{model_path(model)}/versions/{chosen.version}"
    answer = call("DELETE", path, tenant=tenant, params=parameters, timeout=_CHECK_S)
    return list(answer["files_deleted"])


def history(
    tenant: str, model: str, *, version: str | int | None = None, limit: int = 1000
) -> list[Transition]:
    """Every change of stage, newest first; those of deleted versions included."""
    check_name(tenant)
    require_server()
    parameters: dict[str, Any] = {"limit": limit}
    if version is not None:
        parameters["version"] = find_version(tenant, model, version).version
    answer = call("GET", f"{model_path(model)}/transitions", tenant=tenant, params=parameters)
    return [Transition.from_row(row) for row in answer["transitions"]]


def production_at(tenant: str, model: str, at: datetime) -> Transition | None:
    """The promotion that put into Production what was there at `at`; None when nothing was.

    Raises:
        BadInputError: `at` has no time zone.
        NotFoundError: no such tenant.
    """
    if at.tzinfo is None:
        raise BadInputError(
            f"{at.isoformat()} names no time zone, so it is no moment.",
            hint="Give the time one, for example datetime(2026, 11, 30, 12, tzinfo=timezone.utc).",
        )
    check_name(tenant)
    require_server()
    parameters = {"at_ms": to_millis(at)}
    try:
        row = call("GET", f"{model_path(model)}/production", tenant=tenant, params=parameters)
    except NotFoundError:
        return None
    return Transition.from_row(row)


def _move(tenant: str, model: str, path: str, parameters: dict[str, Any]) -> Move:
    check_name(tenant)
    answer = call("POST", path, tenant=tenant, json=parameters, timeout=_CHECK_S)
    own, *displaced = map(Transition.from_row, answer["transitions"])
    return Move(model, own, tuple(displaced))
