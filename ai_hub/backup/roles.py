"""Roles, and rights on a database as a whole: what no dump of a database holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from ai_hub.backup.manifest import Role
from ai_hub.database.tenant_scope import SERVICE_ROLE, TENANT_ROLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from ai_hub.backup.manifest import Database

#: Who owns or may something here, whoever is a member of our roles, and those.
_RELEVANT: Final[LiteralString] = """
WITH RECURSIVE relevant (oid) AS (
    SELECT refobjid FROM pg_shdepend JOIN pg_database d ON datname = current_database()
    WHERE refclassid = 'pg_authid'::regclass
        AND (dbid = d.oid OR classid = 'pg_database'::regclass AND objid = d.oid)
    UNION SELECT oid FROM pg_roles WHERE rolname = ANY (%(ours)s) OR rolname = session_user
    UNION SELECT m.member FROM pg_auth_members m JOIN relevant r ON r.oid = m.roleid
)
SELECT r.oid, rolname, rolcanlogin, rolinherit, rolcreatedb, rolcreaterole, rolconnlimit,
    ARRAY (SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid ORDER BY 1),
    rolname <> session_user AND EXISTS (
        SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE member = r.oid AND g.rolname = %(tenant)s
    )
FROM relevant JOIN pg_roles r USING (oid) WHERE rolname !~ '^pg_' ORDER BY rolname
"""
_SETTINGS: Final[LiteralString] = """
SELECT setdatabase <> 0, setting
FROM pg_db_role_setting JOIN pg_database d ON datname = current_database(), unnest(setconfig) AS setting
WHERE setrole = %s AND setdatabase IN (0, d.oid)
    AND setting !~ '^timescaledb\\.restoring='
ORDER BY 1, 2
"""
_DATABASE_RIGHTS: Final[LiteralString] = """
SELECT CASE grantee WHEN 0 THEN '' ELSE grantee::regrole::text END, privilege_type
FROM pg_database, aclexplode(datacl) WHERE datname = current_database() AND grantee <> datdba ORDER BY 1, 2
"""


def gather(connection: psycopg.Connection[Any]) -> list[Role]:
    """The roles that matter to this database, with the hashes of their passwords if we may read them."""
    rows = connection.execute(
        _RELEVANT, {"ours": [SERVICE_ROLE, TENANT_ROLE], "tenant": TENANT_ROLE}
    ).fetchall()
    hashes = _hashes(connection)
    return [
        Role(
            name=name,
            login=login,
            inherit=inherit,
            createdb=createdb,
            createrole=createrole,
            connection_limit=limit,
            password=None if name == connection.info.user else hashes.get(name),
            member_of=member_of,
            settings=connection.execute(_SETTINGS, [oid]).fetchall(),
            of_tenant=of_tenant,
        )
        for oid, name, login, inherit, createdb, createrole, limit, member_of, of_tenant in rows
    ]


def database_rights(connection: psycopg.Connection[Any]) -> list[tuple[str, str]] | None:
    """Rights on the database itself; None where PostgreSQL's own hold."""
    row = connection.execute(
        "SELECT datacl IS NULL FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    if row == (True,):
        return None
    return [(str(grantee), str(right)) for grantee, right in connection.execute(_DATABASE_RIGHTS).fetchall()]


def database_settings(connection: psycopg.Connection[Any]) -> list[str]:
    """`name=value` of what is set for the database, whoever connects."""
    return [str(setting) for _, setting in connection.execute(_SETTINGS, [0]).fetchall()]


def restore(connection: psycopg.Connection[Any], roles: Sequence[Role]) -> None:
    """Make the roles that are missing; tenants' logins get what they had, others keep what they have here.

    None becomes a superuser.
    """
    here = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    with connection.transaction():
        for role in roles:
            name = sql.Identifier(role.name)
            if role.name not in here:
                connection.execute(sql.SQL("CREATE ROLE {}").format(name))
            elif not role.of_tenant:
                continue
            connection.execute(_attributes(name, role))
    with connection.transaction():
        for role in roles:
            for group in role.member_of:
                connection.execute(
                    sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role.name))
                )
            for only_here, setting in role.settings:
                if role.name not in here or role.of_tenant:
                    _set(connection, role.name, setting, only_here=only_here)


def restore_database(connection: psycopg.Connection[Any], kept: Database) -> None:
    """Give the database the rights and settings it had."""
    database = sql.Identifier(connection.info.dbname)
    with connection.transaction():
        if kept.database_rights is not None:
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            for grantee, right in kept.database_rights:
                to = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
                connection.execute(
                    sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
                        sql.SQL(right),  # one of PostgreSQL's words
                        database,
                        to,
                    )
                )
        for setting in kept.database_settings:
            _set(connection, None, setting, only_here=True)


def _set(connection: psycopg.Connection[Any], role: str | None, setting: str, *, only_here: bool) -> None:
    """By way of this transaction's own value: lists and quotes need no writing."""
    name, _, value = setting.partition("=")
    connection.execute("SELECT set_config(%s, %s, true)", [name, value])
    database = sql.SQL("DATABASE {}").format(sql.Identifier(connection.info.dbname))
    whose = [] if role is None else [sql.SQL("ROLE {}").format(sql.Identifier(role))]
    if only_here:
        whose += [sql.SQL("IN ") + database if whose else database]
    connection.execute(
        sql.SQL("ALTER {} SET {} FROM CURRENT").format(
            sql.SQL(" ").join(whose), sql.SQL(".").join(map(sql.Identifier, name.split(".")))
        )
    )


def _attributes(name: sql.Identifier, role: Role) -> sql.Composed:
    words = [
        *("LOGIN" if role.login else "NOLOGIN", "INHERIT" if role.inherit else "NOINHERIT"),
        *("CREATEDB" if role.createdb else "NOCREATEDB", "CREATEROLE" if role.createrole else "NOCREATEROLE"),
    ]
    statement = sql.SQL("ALTER ROLE {} {} CONNECTION LIMIT {}").format(
        name,
        sql.SQL(" ".join(words)),  # of this module's own words
        sql.Literal(role.connection_limit),
    )
    if role.password is None:
        return statement
    return statement + sql.SQL(" PASSWORD {}").format(sql.Literal(role.password))


def _hashes(connection: psycopg.Connection[Any]) -> dict[str, str]:
    try:
        with connection.transaction():
            rows = connection.execute(
                "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"
            )
            return {str(name): str(password) for name, password in rows}
    except InsufficientPrivilege:  # of somebody who is no superuser
        return {}
