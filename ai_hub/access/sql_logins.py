"""Logins with which a tenant reads its own rows by SQL (`sql/code/070_tenant_wall.sql`)."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, LiteralString
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, InternalError_, LockNotAvailable
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from ai_hub.db.connection import connect
from ai_hub.db.retired import require_in_use
from ai_hub.db.tenant_scope import SEARCH_PATH, TENANT_ROLE
from ai_hub.errors import BadInputError, ConflictError, NotFoundError, ServiceDownError
from ai_hub.names import check_tenant

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONNECTIONS: Final = 5
#: What keeps a careless session from holding up others; it may set them otherwise.
_SETTINGS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("search_path", SEARCH_PATH),
    ("default_transaction_read_only", "on"),
    ("statement_timeout", "'60s'"),
    # its locks make migrations and the drop of old chunks wait, and those make everybody wait
    ("idle_in_transaction_session_timeout", "'60s'"),
)
_LOCK: Final = "LOCK TABLE sql_logins IN SHARE ROW EXCLUSIVE MODE"
_LOCK_TIMEOUT: Final = "2s"
_TRIES: Final = 10
_END_MS: Final = 5000
_HOLDING: Final[LiteralString] = """
SELECT DISTINCT datname FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid
WHERE refclassid = 'pg_authid'::regclass AND refobjid = %s::regrole ORDER BY datname
"""
#: What PUBLIC may in other databases, and whether we may change that.
_DATABASES: Final[LiteralString] = """
SELECT datname, array_agg(DISTINCT privilege_type), pg_has_role(datdba, 'USAGE')
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
WHERE datallowconn AND datname <> current_database()
    AND grantee = 0 AND privilege_type IN ('CONNECT', 'TEMPORARY')
GROUP BY datname, datdba ORDER BY datname
"""
#: Everybody that is no tenant's.
_OTHER_LOGINS: Final[LiteralString] = """
SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND NOT pg_has_role(oid, %s, 'MEMBER')
"""
_LARGE_OBJECTS: Final[LiteralString] = """
SELECT FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'lo_from_bytea'
    AND has_function_privilege(%s, oid, 'EXECUTE')
"""


@dataclass(frozen=True)
class SqlLogin:
    """A login, the address with its password, and what of the server stays open to it beside its rows."""

    login: str
    tenant: str
    dsn: str
    left_open: tuple[str, ...] = ()


@dataclass(frozen=True)
class Revoked:
    """A login that is shut out; `left` when it could not be deleted: why, and what to do."""

    login: str
    left: str = ""


def grant(tenant: str, *, dsn: str) -> SqlLogin:
    """Give the tenant's login, made if there is none, a new password.

    Its name is random: every login may read the names of all others.

    Raises:
        BadInputError: no tenant can have this name; or the server knows one login only.
        ConflictError: somebody else is changing the login.
    """
    check_tenant(tenant)
    password = secrets.token_urlsafe(24)
    try:
        login, made = _set_password(tenant, password, dsn)
    except LockNotAvailable as error:
        raise ConflictError(
            f"A session of tenant {tenant} or another call is changing its login.",
            hint="Try again, or first end its sessions with `ai-hub keys sql-login --revoke`.",
        ) from error
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    found = SqlLogin(login, tenant, parts._replace(netloc=f"{login}:{quote(password)}@{host}").geturl())
    if made:
        _check_usable(found, dsn)
    with connect(dsn, application_name="ai-hub keys") as connection:
        return replace(found, left_open=tuple(close_public_access(connection)))


def _set_password(tenant: str, password: str, dsn: str) -> tuple[str, bool]:
    """The tenant's login, and whether it was made here."""
    with connect(dsn, application_name="ai-hub keys") as connection:
        require_in_use(connection, tenant)
        # whoever waits here keeps all other calls waiting
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        connection.execute(_LOCK)
        existing = _existing(connection, tenant)
        login = existing or f"ai_hub_sql_{secrets.token_hex(6)}"
        if existing is None:
            _make(connection, login, tenant)
        for name, value in _SETTINGS:
            connection.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(
                    sql.Identifier(login), sql.SQL(name), sql.SQL(value)
                )
            )
        # only the hash travels, so no statement log can hold the password
        hashed = connection.pgconn.encrypt_password(password.encode(), login.encode())
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(hashed.decode()))
        )
    return login, existing is None


def _check_usable(made: SqlLogin, dsn: str) -> None:
    """Take a new login back that is of no use. One in use is not tried: its sessions may be all it has."""
    try:
        connect(made.dsn, application_name="ai-hub keys").close()
    except ServiceDownError as error:
        revoke(made.tenant, dsn=dsn)
        raise BadInputError(
            f"This server does not let the new login in: {error.message}",
            hint="The embedded TimescaleDB knows one login only; with a server of your own, try again.",
        ) from error


def revoke(tenant: str, *, dsn: str) -> Revoked:
    """Shut the tenant's login out, end its sessions, and delete it as far as that is possible.

    Raises:
        NotFoundError: it has none.
    """
    with connect(dsn, autocommit=True, application_name="ai-hub keys") as connection:
        login = _lock_out(connection, tenant)
        return Revoked(login, _delete(connection, login, dsn))


@retry(
    retry=retry_if_exception_type((LockNotAvailable, InternalError_)),
    stop=stop_after_attempt(_TRIES),
    reraise=True,
)
def _lock_out(connection: psycopg.Connection, tenant: str) -> str:
    """Committed by itself: nothing that the tenant has left on the server can undo it."""
    # a session that is changing its own password would hold us up
    if login := _existing(connection, tenant):
        with suppress(InsufficientPrivilege):
            _end_sessions(connection, login, wait_ms=0)
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        connection.execute(_LOCK)
        login = _existing(connection, tenant)
        if login is None:
            raise NotFoundError(
                f"Tenant {tenant[:63]} has no SQL login.", hint="Make one: `ai-hub keys sql-login`."
            )
        role, database = sql.Identifier(login), sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        connection.execute("DELETE FROM sql_logins WHERE login = %s", [login])
        connection.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(TENANT_ROLE), role))
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, role))
    return login


def _delete(connection: psycopg.Connection, login: str, dsn: str) -> str:
    """Delete a login that is shut out; if that fails, returns why, and what is left to do."""
    role = sql.Identifier(login)
    holding: list[str] = []
    try:
        _end_sessions(connection, login, wait_ms=_END_MS)
        holding = [name for (name,) in connection.execute(_HOLDING, [login])]
        for database in holding:
            address = urlsplit(dsn)._replace(path=f"/{quote(database, safe='')}").geturl()
            with connect(address, application_name="ai-hub keys") as there:
                there.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
                there.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))
    except (psycopg.Error, ServiceDownError) as error:
        first = f"in {', '.join(holding)}: DROP OWNED BY {login}; then " if holding else ""
        return f"{str(error).strip().splitlines()[0]}. As a superuser, {first}DROP ROLE {login}"
    return ""


def _end_sessions(connection: psycopg.Connection, login: str, *, wait_ms: int) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE usename = %s", [wait_ms, login]
    )


def _existing(connection: psycopg.Connection, tenant: str) -> str | None:
    row = connection.execute(
        "SELECT login FROM sql_logins JOIN pg_roles ON rolname = login WHERE tenant_id = %s", [tenant]
    ).fetchone()
    return None if row is None else str(row[0])


def _make(connection: psycopg.Connection, login: str, tenant: str) -> None:
    role = sql.Identifier(login)
    database = sql.Identifier(connection.info.dbname)
    for statement in (
        sql.SQL(
            "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT {}"
        ).format(role, sql.Literal(_CONNECTIONS)),
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(TENANT_ROLE), role),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role),
    ):
        connection.execute(statement)
    connection.execute("INSERT INTO sql_logins (login, tenant_id) VALUES (%s, %s)", [login, tenant])


def close_public_access(connection: psycopg.Connection) -> list[str]:
    """Keep tenants' logins in this database; returns what stays open because somebody else owns it.

    In any other one they could make temporary tables and large objects, and the latter outlive them.
    Logins that exist and are no tenant's keep what they had as part of PUBLIC.
    """
    others = [sql.Identifier(name) for (name,) in connection.execute(_OTHER_LOGINS, [TENANT_ROLE])]
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
