"""The rights that `sql/code` grants and takes away, as a restore without them would miss them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from ai_hub.db.tenant_scope import SERVICE_ROLE, TENANT_ROLE

if TYPE_CHECKING:
    import psycopg

#: One line for each right of our roles, and for each that not everybody has.
_RIGHTS: Final[LiteralString] = """
WITH role AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = ANY (%(roles)s)
), n AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('public', 'tenant_wall')
)
SELECT format('role %%s', rolname) FROM role
UNION ALL
SELECT format('relation %%s.%%s: %%s to %%s', nspname, relname, privilege_type, rolname)
FROM pg_class JOIN n ON n.oid = relnamespace, aclexplode(relacl) JOIN role ON role.oid = grantee
UNION ALL
SELECT format('schema %%s: %%s to %%s', nspname, privilege_type, rolname)
FROM n, aclexplode(nspacl) JOIN role ON role.oid = grantee
UNION ALL
SELECT format('function %%s: %%s to %%s', p.oid::regprocedure, privilege_type, rolname)
FROM pg_proc p JOIN n ON n.oid = pronamespace, aclexplode(proacl) JOIN role ON role.oid = grantee
UNION ALL
SELECT format('function %%s: not to all', p.oid::regprocedure)
FROM pg_proc p LEFT JOIN n ON n.oid = pronamespace
WHERE (nspname IS NOT NULL OR pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^(lo_|loread|lowrite)')
    AND NOT EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
UNION ALL
SELECT format('database: %%s not to all', privilege)
FROM pg_database, unnest(ARRAY['CREATE', 'TEMPORARY']) AS privilege
WHERE datname = current_database() AND NOT EXISTS (
    SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
    WHERE grantee = 0 AND privilege_type = privilege
)
UNION ALL
SELECT format('schema %%s: CREATE not to all', nspname)
FROM n WHERE NOT EXISTS (
    SELECT FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
    WHERE grantee = 0 AND privilege_type = 'CREATE'
)
"""


def note(connection: psycopg.Connection[Any]) -> None:
    """Write down what the code that was just applied has granted."""
    # a folder of earlier migrations has no column for it
    row = connection.execute("SELECT to_jsonb(code) ? 'rights' FROM schema_code AS code").fetchone()
    if row and row[0]:
        connection.execute("UPDATE schema_code SET rights = %s", [_present(connection)])


def are_missing(connection: psycopg.Connection[Any]) -> bool:
    """Whether a right that was noted is gone: roles and grants are not in every dump."""
    # a database from before the column has migrations to come, and with them the code
    row = connection.execute("SELECT to_jsonb(code) -> 'rights' FROM schema_code AS code").fetchone()
    return bool(row and row[0] and set(row[0]) - set(_present(connection)))


def _present(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute(_RIGHTS, {"roles": [SERVICE_ROLE, TENANT_ROLE]}).fetchall()
    return sorted(str(line) for (line,) in rows)
