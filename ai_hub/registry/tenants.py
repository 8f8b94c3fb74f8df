"""Tenants are workspaces of MLflow: created, chosen for a block or a process, removed; their folder in S3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ai_hub.errors import AiHubError, BadInputError, ConflictError
from ai_hub.registry.server import WORKSPACES, call, check_name, require_server, tracking_uri

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


_OURS: Final = "/ai-hub/api/tenants"
#: The server's own tenant.
_DEFAULT: Final = "default"
#: Seconds the server may take to list or delete every file of a tenant.
_FILES_S: Final = 3600


def ensure_tenant(tenant: str) -> None:
    """Create the tenant's workspace if it does not exist.

    Raises:
        BadInputError: no workspace can have this name.
        ForbiddenError: it is not one of yours, and only the administrator makes new ones.
    """
    if tenant == _DEFAULT:
        return
    check_name(tenant)
    require_server()
    # with a login, this is what people may ask about tenants: which are theirs
    if tenant not in _workspaces():
        _create(tenant)


def create_tenant(tenant: str) -> None:
    """Create a tenant nobody has had yet, or whose former bearer is wholly gone.

    Raises:
        BadInputError: no workspace can have this name.
        ConflictError: there is one, or something of a former one is left.
        ForbiddenError: only the administrator makes new ones.
    """
    check_name(tenant)
    if tenant in list_tenants():
        raise ConflictError(f"Tenant {tenant} exists.", hint="`ai-hub tenants list` shows all.")
    call("POST", WORKSPACES, json={"name": tenant})


def list_tenants() -> list[str]:
    """Tenants of the registry by name (with a login: yours); `default` is none."""
    require_server()
    return sorted(_workspaces() - {_DEFAULT})


@dataclass(frozen=True)
class RegisteredTenant:
    """What MLflow's server has of a tenant, and the last step of its removal."""

    exists: bool
    counts: dict[str, int]
    in_production: list[str]
    removal: dict[str, Any] | None

    @property
    def step(self) -> str | None:
        """The last step of its removal; None when there was none, or the name is free again."""
        return self.removal["step"] if self.removal and self.removal["reserved"] else None


def registered_tenant(tenant: str) -> RegisteredTenant:
    """Look at a tenant that may be removed, or is.

    Raises:
        ForbiddenError: only the administrator may.
    """
    check_name(tenant)
    if tenant == _DEFAULT:
        raise BadInputError(f"{tenant} is the server's own tenant, which can neither be removed nor renamed.")
    require_server()
    found = call("GET", f"{_OURS}/{tenant}", timeout=_FILES_S)
    counts = {**found["tables"], **found["counts"]}
    return RegisteredTenant(
        found["exists"],
        {name: count for name, count in counts.items() if count},
        found["in_production"],
        found["removal"],
    )


def removed_tenants() -> list[dict[str, Any]]:
    """The last step of the removal of each tenant that was removed."""
    require_server()
    return list(call("GET", _OURS)["removals"])


def remove_tenant(tenant: str, *, reason: str, force: bool, keep: bool) -> None:
    """Remove a tenant from MLflow's server; killed midway, the same call goes on.

    Raises:
        ConflictError: something is in production, and `force` is off.
        NotFoundError: there is none.
    """
    parameters = {"mode": "CASCADE", "force": str(force).lower(), "keep": str(keep).lower(), "reason": reason}
    call("DELETE", f"{WORKSPACES}/{tenant}", params=parameters, timeout=_FILES_S)


def release_tenant(tenant: str, reason: str) -> None:
    """Let the name of a removed tenant be used again."""
    call("POST", f"{_OURS}/{tenant}/release", json={"reason": reason})


def tenant_scope(tenant: str) -> AbstractContextManager[str | None]:
    """Calls to MLflow in this block, and in this thread or task only, are about `tenant`.

    Unlike `mlflow.set_workspace` it leaves the process's environment alone, so threads may serve different
    tenants side by side. Threads that MLflow starts itself do not see it: use `enter_tenant` for training.
    """
    from mlflow.utils.workspace_context import ServerWorkspaceContext  # noqa: PLC0415  # takes seconds

    check_name(tenant)
    scope: AbstractContextManager[str | None] = ServerWorkspaceContext(tenant)
    return scope


def enter_tenant(tenant: str) -> None:
    """Make everything this process does from now on be about `tenant`, which is created if missing."""
    import mlflow  # noqa: PLC0415  # takes seconds

    ensure_tenant(tenant)
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_workspace(tenant)


def _workspaces() -> set[str]:
    return {str(each["name"]) for each in call("GET", WORKSPACES).get("workspaces", ())}


def _create(tenant: str) -> None:
    try:
        call("POST", WORKSPACES, json={"name": tenant})
    except AiHubError:
        # somebody else was faster
        if tenant not in _workspaces():
            raise


def read_policy(tenant: str, bucket: str) -> dict[str, Any]:
    """The policy of a key that reads a tenant's folder and nothing else, as AWS, MinIO and SeaweedFS take it.

    Writing stays with the server: whoever could write past it could exchange a registered version's files.

    Args:
        tenant: whose folder; `{bucket}/{tenant}/` holds its runs and its registered versions.
        bucket: of model artifacts.

    Raises:
        BadInputError: no tenant can have this name.
    """
    check_name(tenant)  # a name with a wildcard would open other folders
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadTheTenantsFiles",
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": [f"{arn}/{tenant}/*"],
            },
            {
                "Sid": "ListTheTenantsFolder",
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [arn],
                "Condition": {"StringLike": {"s3:prefix": [f"{tenant}/*"]}},
            },
        ],
    }
