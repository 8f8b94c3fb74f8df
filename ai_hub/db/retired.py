"""Tenants of the database, and those that were removed while their rows were to stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from psycopg import Connection

#: Kinds of `removals`: with all rows, and without.
REMOVED: Final = "tenant"
KEPT: Final = "tenant kept"
_LAST: Final[LiteralString] = (
    "SELECT kind FROM removals WHERE tenant_id = %s AND kind = ANY (%s) ORDER BY removal_id DESC LIMIT 1"
)


def data_tenants(connection: Connection[Any]) -> list[str]:
    """Tenants with assets, readings, external series or keys, by name."""
    rows = connection.execute(
        "SELECT tenant_id FROM assets UNION SELECT tenant_id FROM asset_spans"
        " UNION SELECT tenant_id FROM covariate_series"
        " UNION SELECT unnest(tenants) FROM api_keys WHERE revoked_at IS NULL ORDER BY 1"
    )
    return [name for (name,) in rows]


def require_in_use(connection: Connection[Any], tenant: str) -> None:
    """Make sure that nobody gets a door to a tenant that was shut out.

    Raises:
        ConflictError: it was.
    """
    row = connection.execute(_LAST, [tenant, [REMOVED, KEPT]]).fetchone()
    if row is not None and row[0] == KEPT:
        raise ConflictError(
            f"Tenant {tenant} was removed, and its data kept.",
            hint=f"`ai-hub tenants remove {tenant} --reason …` deletes it; then the name can be used again.",
        )
