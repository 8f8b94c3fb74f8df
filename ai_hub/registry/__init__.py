"""Registered models from the client's side: tenants, versions, promotion, rollback, audit trail, loading."""

from ai_hub.registry.loading import download_version, load_production
from ai_hub.registry.tenants import ensure_tenant, enter_tenant, tenant_scope
from ai_hub.registry.versions import (
    ModelVersion,
    Transition,
    delete,
    find_version,
    gates,
    history,
    list_versions,
    production_at,
    production_version,
    promote,
    rollback,
)
from mlflow_plugins.gates.gate import Assessment, GateResult

__all__ = [
    "Assessment",
    "GateResult",
    "ModelVersion",
    "Transition",
    "delete",
    "download_version",
    "ensure_tenant",
    "enter_tenant",
    "find_version",
    "gates",
    "history",
    "list_versions",
    "load_production",
    "production_at",
    "production_version",
    "promote",
    "rollback",
    "tenant_scope",
]
