"""What PostgreSQL leaves open to every login of a server, closed before a tenant has one there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg
from psycopg import sql

from ai_hub.database.tenant_wall import TENANT_ROLE

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What PUBLIC may in other databases, and whether we may change that.
_DATABASES: Final[LiteralString] = """
SELECT datname, array_agg(DISTINCT privilege_type), pg_has_role(datdba, 'USAGE')
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
WHERE datallowconn AND datname <> current_database()
    AND grantee = 0 AND privilege_type IN ('CONNECT', 'TEMPORARY')
GROUP BY datname, datdba ORDER BY datname
"""
#: Everybody that is no tenant's.
_OTHERS: Final[LiteralString] = """
SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND NOT pg_has_role(oid, %s, 'MEMBER')
"""
_LARGE_OBJECTS: Final[LiteralString] = """
SELECT FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'lo_from_bytea'
    AND has_function_privilege(%s, oid, 'EXECUTE')
"""


def close(connection: psycopg.Connection) -> list[str]:
    """Keep tenants' logins in this database; returns what stays open because somebody else owns it.

    In any other one they could make temporary tables and large objects, and the latter outlive them.
    Logins that exist and are no tenant's keep what they had as part of PUBLIC.
    """
    others = [sql.Identifier(name) for (name,) in connection.execute(_OTHERS, [TENANT_ROLE])]
    for database, rights, ours in connection.execute(_DATABASES).fetchall():
        if ours:
            # it may be dropped or changed in this moment
            with suppress(psycopg.Error), connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '5s'")
                _close_database(connection, sql.Identifier(database), rights, others)
    left = [f"database {database}" for database, _, _ in connection.execute(_DATABASES)]
    if connection.execute(_LARGE_OBJECTS, [TENANT_ROLE]).fetchone() is not None:
        left.append("large objects")
    return left


def _close_database(
    connection: psycopg.Connection,
    database: sql.Identifier,
    rights: Sequence[str],
    others: Sequence[sql.Identifier],
) -> None:
    named = sql.SQL(", ").join(map(sql.SQL, rights))
    if others:
        connection.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}").format(named, database, sql.SQL(", ").join(others))
        )
    connection.execute(sql.SQL("REVOKE {} ON DATABASE {} FROM PUBLIC").format(named, database))
