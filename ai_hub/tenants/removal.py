"""Removing and renaming a tenant, everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai_hub.database.connection import connect
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.features.store import open_store
from ai_hub.registry import tenants as registry
from ai_hub.registry.tenants import RegisteredTenant
from ai_hub.tenants import files, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_hub.settings import Settings

_KEPT = "kept"
_REMOVED = "removed"


@dataclass(frozen=True)
class Contents:
    """What there is of a tenant, by kind; kinds without any are left out."""

    registry: RegisteredTenant
    database: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """All of it."""
        return {**self.registry.counts, **self.database, **self.elsewhere}


def contents(settings: Settings, tenant: str, *, registry_only: bool = False) -> Contents:
    """Count what removing the tenant would take.

    Raises:
        NotFoundError: there is nothing of it anywhere.
        ForbiddenError: only the administrator may.
    """
    registered = registry.registered_tenant(tenant)
    found = Contents(registered)
    if not registry_only:
        with connect(settings.require("timescale_dsn")) as connection:
            database = rows.count(connection, tenant)
        elsewhere = files.count_exports(settings, tenant)
        if settings.redis_url:
            elsewhere["redis_keys"] = files.count_online(open_store(settings), tenant)
        found = Contents(registered, database, {name: count for name, count in elsewhere.items() if count})
    if not (registered.exists or registered.step or found.counts):
        raise NotFoundError(
            f"There is no tenant {tenant}.", hint="`ai-hub tenants list` shows those there are."
        )
    return found


def data_tenants() -> list[str]:
    """Tenants with assets, readings or keys, by name.

    Raises:
        SettingMissingError: there is no TimescaleDB.
    """
    with connect() as connection:
        return rows.names(connection)


def remove(
    settings: Settings,
    tenant: str,
    *,
    reason: str,
    force: bool = False,
    keep: bool = False,
    registry_only: bool = False,
    done: Callable[[str], None] = lambda _: None,
) -> Contents:
    """Remove a tenant; returns what it had. Killed midway, the same call goes on.

    Whoever could reach it is shut out first. With `keep`, files, readings, features and exports stay, and the
    name cannot be used until they are removed, too.

    Args:
        settings: of the servers.
        tenant: its name.
        reason: why, for the audit trail.
        force: also when a version is in production.
        keep: see above.
        registry_only: nothing but MLflow's server has anything of it.
        done: told each step.

    Raises:
        ConflictError: a version is in production.
        NotFoundError: there is nothing of it anywhere.
    """
    if not reason.strip():
        raise BadInputError("--reason is empty.", hint="Say why, for those who look for the tenant later.")
    found = contents(settings, tenant, registry_only=registry_only)
    registered = found.registry
    if registered.in_production and not force:
        raise ConflictError(
            f"Tenant {tenant} stays: {', '.join(registered.in_production[:5])} in Production.",
            hint="Archive what is in Production first, or add --force.",
        )
    if not registry_only:
        dsn = settings.require("timescale_dsn")
        with connect(dsn, autocommit=True) as connection:
            rows.note(connection, tenant, "started", reason, found.counts, kept=keep)
            left = rows.shut_out(connection, tenant, dsn)
        done(f"keys and SQL login ended{f' ({left})' if left else ''}")
    if registered.exists or registered.step not in {None, _REMOVED} or registered.counts:
        registry.remove_tenant(tenant, reason=reason, force=force, keep=keep)
        done("gone from the registry")
    if not registry_only:
        _remove_data(settings, tenant, reason, found, keep=keep, done=done)
    if not keep and registry.registered_tenant(tenant).step == _REMOVED:
        registry.release_tenant(tenant, reason)
    return found


def rename(settings: Settings, tenant: str, new_name: str) -> None:
    """Rename a tenant that has nothing yet.

    Raises:
        ConflictError: it has; or the new name is taken.
        NotFoundError: there is no such tenant.
    """
    found = contents(settings, tenant)
    if found.counts or not found.registry.exists:
        what = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.counts.items())
        raise ConflictError(
            f"Tenant {tenant} cannot be renamed: {what or 'what is left of it'} would keep the old name. It "
            "is part of every file's address and manifest, of the audit trail, and of every row and key.",
            hint=f"Create {new_name}, bring there what it needs (register the versions anew, ingest the "
            f"readings), then `ai-hub tenants remove {tenant}`.",
        )
    registry.create_tenant(new_name)
    reason = f"renamed to {new_name}"
    registry.remove_tenant(tenant, reason=reason, force=False, keep=False)
    registry.release_tenant(tenant, reason)


def _remove_data(
    settings: Settings, tenant: str, reason: str, found: Contents, *, keep: bool, done: Callable[[str], None]
) -> None:
    dsn = settings.require("timescale_dsn")
    with connect(dsn, autocommit=True) as connection:
        if not keep:
            rows.delete(connection, tenant, dsn)
            done("rows of TimescaleDB deleted")
            files.delete_exports(settings, tenant)
            done("exports deleted")
        if settings.redis_url:
            files.delete_online(open_store(settings), tenant)
        done("keys of Redis deleted" if settings.redis_url else "no Redis: REDIS_URL is not set")
        rows.note(connection, tenant, "finished", reason, found.counts, kept=keep)
