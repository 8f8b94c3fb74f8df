"""Removal and renaming of a tenant in every store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.features.store import open_store
from ai_hub.registry import tenants as registry
from ai_hub.registry.tenants import RegisteredTenant
from ai_hub.tenants import stores

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_hub.settings import Settings

_KEPT = "kept"
_REMOVED = "removed"


@dataclass(frozen=True)
class Contents:
    """Counts of what a tenant has, by kind; zero counts are omitted."""

    registry: RegisteredTenant
    database: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """All counts."""
        return {**self.registry.counts, **self.database, **self.elsewhere}


def contents(settings: Settings, tenant: str, *, registry_only: bool = False) -> Contents:
    """Count what removing the tenant would delete.

    Raises:
        NotFoundError: the tenant has nothing anywhere.
        ForbiddenError: the login is not an administrator's.
    """
    registered = registry.registered_tenant(tenant)
    contents_ = Contents(registered)
    if not registry_only:
        with connect(settings.require("timescale_dsn")) as connection:
            database = stores.count_rows(connection, tenant)
        elsewhere = stores.count_exports(settings, tenant)
        if settings.redis_url:
            elsewhere["redis_keys"] = stores.count_online(open_store(settings), tenant)
        contents_ = Contents(
            registered, database, {name: count for name, count in elsewhere.items() if count}
        )
    if not (registered.exists or registered.step or contents_.counts):
        raise NotFoundError(
            f"There is no tenant {tenant}.", hint="`ai-hub tenants list` shows those there are."
        )
    return contents_


def remove(
    settings: Settings,
    tenant: str,
    *,
    reason: str,
    force: bool = False,
    keep: bool = False,
    registry_only: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> Contents:
    """Remove a tenant; returns what it had. A repeated call resumes a killed one.

    Access is revoked first. With `keep`, files, readings, features and exports remain, and the name cannot be
    used until they are removed, too.

    Args:
        settings: Of the servers.
        tenant: Name of the tenant.
        reason: Why, for the audit trail.
        force: Remove the tenant although a version is in production.
        keep: Keep the data, see above.
        registry_only: Remove the tenant from MLflow's server alone.
        on_step: Called with a description of each completed step.

    Raises:
        BadInputError: the reason is empty.
        ConflictError: a version is in production.
        NotFoundError: the tenant has nothing anywhere.
    """
    if not reason.strip():
        raise BadInputError("--reason is empty.", hint="State why, for those who look for the tenant later.")
    counted = contents(settings, tenant, registry_only=registry_only)
    registered = counted.registry
    if registered.in_production and not force:
        raise ConflictError(
            f"Tenant {tenant} stays: {', '.join(registered.in_production[:5])} in Production.",
            hint="Archive what is in Production first, or add --force.",
        )
    if not registry_only:
        dsn = settings.require("timescale_dsn")
        with connect(dsn, autocommit=True) as connection:
            stores.record_step(connection, tenant, "started", reason, counted.counts, kept=keep)
            remaining = stores.revoke_access(connection, tenant, dsn)
        on_step(f"keys and SQL login revoked{f' ({remaining})' if remaining else ''}")
    if registered.exists or registered.step not in {None, _REMOVED} or registered.counts:
        registry.remove_tenant(tenant, reason=reason, force=force, keep=keep)
        on_step("removed from the registry")
    if not registry_only:
        _remove_data(settings, tenant, reason, counted, keep=keep, on_step=on_step)
    if not keep and registry.registered_tenant(tenant).step == _REMOVED:
        registry.release_tenant(tenant, reason)
    return counted


def rename(settings: Settings, tenant: str, new_name: str) -> None:
    """Rename a tenant that has nothing yet.

    Raises:
        ConflictError: the tenant has something, or the new name is taken.
        NotFoundError: the tenant does not exist.
    """
    counted = contents(settings, tenant)
    if counted.counts or not counted.registry.exists:
        description = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in counted.counts.items()
        )
        raise ConflictError(
            f"Tenant {tenant} cannot be renamed: {description or 'what is left of it'} would keep the old"
            " name. It is part of every file's address and manifest, of the audit trail, and of every row and"
            " key.",
            hint=f"Create {new_name}, bring there what it needs (register the versions anew, ingest the "
            f"readings), then `ai-hub tenants remove {tenant}`.",
        )
    registry.create_tenant(new_name)
    reason = f"renamed to {new_name}"
    registry.remove_tenant(tenant, reason=reason, force=False, keep=False)
    registry.release_tenant(tenant, reason)


def _remove_data(
    settings: Settings,
    tenant: str,
    reason: str,
    counted: Contents,
    *,
    keep: bool,
    on_step: Callable[[str], None],
) -> None:
    dsn = settings.require("timescale_dsn")
    with connect(dsn, autocommit=True) as connection:
        if not keep:
            stores.delete_rows(connection, tenant, dsn)
            on_step("rows of TimescaleDB deleted")
            stores.delete_exports(settings, tenant)
            on_step("exports deleted")
        if settings.redis_url:
            stores.delete_online(open_store(settings), tenant)
        on_step("keys of Redis deleted" if settings.redis_url else "no Redis: REDIS_URL is not set")
        stores.record_step(connection, tenant, "finished", reason, counted.counts, kept=keep)
