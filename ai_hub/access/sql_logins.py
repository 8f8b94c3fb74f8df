"""Logins with which a tenant reads its own rows by SQL (`sql/code/070_tenant_wall.sql`)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from psycopg import sql

from ai_hub.database.connection import connect
from ai_hub.database.tenant_wall import SEARCH_PATH, TENANT_ROLE, check_tenant
from ai_hub.errors import BadInputError, NotFoundError, ServiceDownError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    import psycopg

#: Such a login cannot take the server from others; a session may lower its time-out, and raise it.
_CONNECTIONS: Final = 5
_STATEMENT_TIMEOUT: Final = "60s"


@dataclass(frozen=True)
class SqlLogin:
    """A login, and the address with its password."""

    login: str
    tenant: str
    dsn: str


def grant(tenant: str, *, dsn: str | None = None) -> SqlLogin:
    """Give the tenant's login, made if there is none, a new password.

    Its name is random: every login may read the names of all others.

    Raises:
        BadInputError: no tenant can have this name; or the server knows one login only.
    """
    check_tenant(tenant)
    dsn = dsn or Settings().require("timescale_dsn")
    password = secrets.token_urlsafe(24)
    with connect(dsn, application_name="ai-hub keys") as connection:
        connection.execute("LOCK TABLE sql_logins IN SHARE ROW EXCLUSIVE MODE")
        login = _existing(connection, tenant)
        if login is None:
            login = f"ai_hub_sql_{secrets.token_hex(6)}"
            _make(connection, login, tenant)
        # only the hash travels, so no statement log can hold the password
        hashed = connection.pgconn.encrypt_password(password.encode(), login.encode())
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(hashed.decode()))
        )
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    found = SqlLogin(login, tenant, parts._replace(netloc=f"{login}:{quote(password)}@{place}").geturl())
    try:
        connect(found.dsn, application_name="ai-hub keys").close()
    except ServiceDownError as error:
        revoke(tenant, dsn=dsn)
        raise BadInputError(
            f"This server does not let the new login in: {error.message}",
            hint="The embedded TimescaleDB knows one login only; use a server of your own.",
        ) from error
    return found


def revoke(tenant: str, *, dsn: str | None = None) -> str:
    """Delete the tenant's login and end its sessions; returns its name.

    Raises:
        NotFoundError: it has none.
    """
    with connect(dsn, application_name="ai-hub keys") as connection:
        login = _existing(connection, tenant)
        if login is None:
            raise NotFoundError(
                f"Tenant {tenant[:63]} has no SQL login.", hint="Make one: `ai-hub keys sql-login`."
            )
        role = sql.Identifier(login)
        connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [login]
        )
        connection.execute("DELETE FROM sql_logins WHERE login = %s", [login])
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))
    return login


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
        sql.SQL("ALTER ROLE {} SET search_path = {}").format(role, sql.SQL(SEARCH_PATH)),
        sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(role, sql.Literal(_STATEMENT_TIMEOUT)),
        sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role),
    ):
        connection.execute(statement)
    connection.execute("INSERT INTO sql_logins (login, tenant_id) VALUES (%s, %s)", [login, tenant])
