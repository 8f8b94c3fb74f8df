"""Transactions that see one tenant's rows only, whatever SQL runs in them (`sql/code/070_tenant_wall.sql`).

Everything is set for one transaction alone, so connections of a pool carry nothing over. Names need no
schema: the tenant scope's views have those of the tables and come first in the search path.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, LiteralString

from psycopg.pq import TransactionStatus

from ai_hub.names import check_tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from ai_hub.settings import Settings

#: Role of the service, and the one that all logins of tenants have.
SERVICE_ROLE: Final = "ai_hub_service"
TENANT_ROLE: Final = "ai_hub_tenant"
SEARCH_PATH: Final = "tenant_wall, public"
#: Enters the tenant scope in the present transaction; parameter: the tenant. For clients with own SQL.
ENTER: Final[LiteralString] = (
    "SELECT set_config('ai_hub.tenant', %s, true), set_config('search_path', 'tenant_wall, public', true),"
    # compiling takes longer than these queries; a restored database has lost its own setting of this
    " set_config('role', 'ai_hub_service', true), set_config('jit', 'off', true)"
)


def service_dsn(settings: Settings) -> str:
    """Address the service connects to: `SERVICE_TIMESCALE_DSN`, else `TIMESCALE_DSN`.

    Raises:
        SettingMissingError: neither is set.
    """
    own = settings.service_timescale_dsn is not None
    return settings.require("service_timescale_dsn" if own else "timescale_dsn")


@contextmanager
def as_tenant(connection: psycopg.Connection, tenant: str) -> Iterator[psycopg.Connection]:
    """A transaction of `connection` inside the tenant scope; an error rolls it back."""
    _check(connection, tenant)
    with connection.transaction():
        connection.execute(ENTER, [tenant])
        yield connection


def _check(connection: psycopg.Connection, tenant: str) -> None:
    check_tenant(tenant)
    # in a transaction of somebody else, its later statements would be inside the tenant scope, too
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise RuntimeError("a transaction is open already")
