"""Logins of tenants as the owner gives and takes them, on a server with other databases."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from support.scoped_database import new_database, scoped_database
from typer.testing import CliRunner

from ai_hub.access import api_keys, sql_logins
from ai_hub.access.principal import SCOPES
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.tenants import stores
from mlflow_plugins.users.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.access.sql_logins import SqlLogin


@pytest.fixture(scope="module")
def owner(native_postgres: str, dsn: str) -> Iterator[str]:
    with scoped_database(native_postgres, dsn) as address:
        yield address


@pytest.fixture
def other(owner: str) -> Iterator[str]:
    """Name of a database that is open to everybody, and of others."""
    with new_database(owner) as address:
        yield urlsplit(address).path[1:]


@pytest.fixture
def granted(owner: str, tenant: str) -> Iterator[SqlLogin]:
    login = sql_logins.grant(tenant, dsn=owner)
    yield login
    # whatever became of it
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("DELETE FROM sql_logins WHERE login = %s", [login.login])
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", [login.login]
        )
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [login.login]).fetchone():
            connection.execute(f"DROP OWNED BY {login.login}")
            connection.execute(f"DROP ROLE {login.login}")


def at(address: str, database: str) -> str:
    return urlsplit(address)._replace(path=f"/{database}").geturl()


def let_in(owner: str, login: SqlLogin, database: str) -> None:
    """The owner of another database opens it to the tenant after all, and the tenant leaves things there."""
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {login.login}")
    with psycopg.connect(at(login.dsn, database), autocommit=True) as theirs:
        theirs.execute("SET default_transaction_read_only = off")
        theirs.execute("SELECT lo_from_bytea(0, 'x')")
        theirs.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")


def refused(address: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(address)
    return str(caught.value)


@pytest.mark.parametrize("database", ["postgres", "template1", "other"])
def test_grant__databases_open_to_everybody__do_not_let_the_tenant_in(
    owner: str, other: str, granted: SqlLogin, database: str
) -> None:
    name = other if database == "other" else database
    sql_logins.grant(granted.tenant, dsn=owner)  # `other` was made after the login
    again = sql_logins.grant(granted.tenant, dsn=owner)
    assert again.left_open == ()
    assert "permission denied for database" in refused(at(again.dsn, name))


def test_grant__pool_that_uses_every_connection__goes_on_and_gets_a_new_password(
    owner: str, granted: SqlLogin
) -> None:
    with ExitStack() as stack:
        pool = [stack.enter_context(psycopg.connect(granted.dsn)) for _ in range(5)]
        again = sql_logins.grant(granted.tenant, dsn=owner)
        assert again.login == granted.login
        assert [each.execute("SELECT 1").fetchone() for each in pool] == [(1,)] * 5
        assert "too many connections" in refused(again.dsn)
    assert "password authentication failed" in refused(granted.dsn)


def test_grant__every_time__limits_what_a_careless_session_holds(owner: str, granted: SqlLogin) -> None:
    with psycopg.connect(granted.dsn, autocommit=True) as theirs:
        theirs.execute("SET default_transaction_read_only = off")
        theirs.execute("ALTER ROLE CURRENT_USER SET idle_in_transaction_session_timeout = 0")
        theirs.execute("ALTER ROLE CURRENT_USER SET statement_timeout = 0")
    again = sql_logins.grant(granted.tenant, dsn=owner)
    with psycopg.connect(again.dsn) as theirs:
        limits = [
            theirs.execute(f"SHOW {name}").fetchone()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        ]
    assert limits == [("1min",), ("1min",)]


def test_grant__session_that_is_changing_its_password__does_not_hold_others_up(
    owner: str, granted: SqlLogin
) -> None:
    with psycopg.connect(granted.dsn) as theirs:
        theirs.execute("SET TRANSACTION READ WRITE")
        theirs.execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'")
        with pytest.raises(ConflictError):
            sql_logins.grant(granted.tenant, dsn=owner)


def test_grant__server_with_one_login__says_so_and_leaves_none(dsn: str, tenant: str) -> None:
    migrate(dsn)
    with pytest.raises(BadInputError, match="does not let the new login in"):
        sql_logins.grant(tenant, dsn=dsn)
    with connect(dsn) as connection:
        left = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'ai_hub_sql_%'").fetchall()
    assert left == []


def test_grant__logins_of_others__keep_what_everybody_had(owner: str, other: str, tenant: str) -> None:
    name, password = f"analyst_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        try:
            sql_logins.grant(tenant, dsn=owner)
            place = urlsplit(at(owner, other))
            address = place._replace(netloc=f"{name}:{password}@{place.netloc.rpartition('@')[2]}").geturl()
            with psycopg.connect(address) as theirs:
                theirs.execute("CREATE TEMP TABLE t (a int)")
        finally:
            sql_logins.revoke(tenant, dsn=owner)
            for database in connection.execute("SELECT datname FROM pg_database").fetchall():
                connection.execute(
                    sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(
                        sql.Identifier(*database), sql.Identifier(name)
                    )
                )
            connection.execute(f"DROP ROLE {name}")


def test_close__databases_of_somebody_else__are_named(owner: str, other: str) -> None:
    name, password = f"hub_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{password}'")
        try:
            place = urlsplit(owner)
            address = place._replace(netloc=f"{name}:{password}@{place.netloc.rpartition('@')[2]}").geturl()
            with psycopg.connect(address) as theirs:
                assert f"database {other}" in sql_logins.close_public_access(theirs)
        finally:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")


def test_revoke__things_left_in_another_database__are_dropped_with_it(
    owner: str, other: str, granted: SqlLogin
) -> None:
    let_in(owner, granted, other)
    assert sql_logins.revoke(granted.tenant, dsn=owner) == sql_logins.Revoked(granted.login)
    assert "password authentication failed" in refused(granted.dsn)


def test_revoke__things_left_out_of_reach__shuts_out_and_says_what_is_left(
    owner: str, other: str, granted: SqlLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in(owner, granted, other)
    monkeypatch.setenv("TIMESCALE_DSN", owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {other} ALLOW_CONNECTIONS false")
        try:
            said = CliRunner().invoke(app, ["keys", "sql-login", granted.tenant, "--revoke"])
        finally:
            connection.execute(f"ALTER DATABASE {other} ALLOW_CONNECTIONS true")
        bound = connection.execute(
            "SELECT count(*) FROM sql_logins WHERE tenant_id = %s", [granted.tenant]
        ).fetchone()
    assert said.exit_code == 0, said.output
    assert "shut out, but not deleted" in said.output
    assert f"in {other}: DROP OWNED BY {granted.login}; then DROP ROLE {granted.login}" in said.output
    assert "not permitted to log in" in refused(granted.dsn)
    assert bound == (0,)

    # the tenant goes on as if there had been none
    anew = sql_logins.grant(granted.tenant, dsn=owner)
    assert anew.login != granted.login
    psycopg.connect(anew.dsn).close()
    assert sql_logins.revoke(granted.tenant, dsn=owner).left == ""
    with pytest.raises(NotFoundError):
        sql_logins.revoke(granted.tenant, dsn=owner)
    # as the message said
    with psycopg.connect(at(owner, other), autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {granted.login}")
        connection.execute(f"DROP ROLE {granted.login}")


def test_revoke__session_that_is_changing_its_password__does_not_hold_it_up(
    owner: str, granted: SqlLogin
) -> None:
    with psycopg.connect(granted.dsn) as theirs:
        theirs.execute("SET TRANSACTION READ WRITE")
        theirs.execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'")
        assert sql_logins.revoke(granted.tenant, dsn=owner).left == ""
        with pytest.raises(psycopg.OperationalError):
            theirs.execute("SELECT 1")
        theirs.close()
    refused(granted.dsn)


def test_revoke_access__ends_the_login_and_the_keys_of_a_tenant(owner: str, granted: SqlLogin) -> None:
    mine, theirs = granted.tenant, f"{granted.tenant}-x"
    both, _ = api_keys.create("both", [mine, theirs], SCOPES[Role.VIEWER], created_by="test", dsn=owner)
    alone, _ = api_keys.create("alone", [mine], SCOPES[Role.VIEWER], created_by="test", dsn=owner)
    psycopg.connect(granted.dsn).close()
    with connect(owner, autocommit=True) as connection:
        assert stores.revoke_access(connection, mine, owner) == ""
        assert stores.revoke_access(connection, mine, owner) == ""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(granted.dsn)
    keys = {key.key_id: key for key in (*api_keys.keys(mine, dsn=owner), *api_keys.keys(theirs, dsn=owner))}
    assert (keys[both.key_id].tenants, keys[both.key_id].state) == ([theirs], "active")
    assert keys[alone.key_id].state == "revoked"
