"""What the promotion gates would say about a version, without promoting it."""

from __future__ import annotations

from typing import Any

from ai_hub.registry.server import call, model_path
from ai_hub.registry.versions import LATEST, find_version
from mlflow_plugins.gates.assessment import Assessment, GateResult

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
