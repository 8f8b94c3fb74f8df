"""Databases beside the meter data: MLflow's, with a login of its own, and that of Feast's registry."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, LiteralString
from urllib.parse import quote, urlsplit

from psycopg import sql
from psycopg.errors import DuplicateDatabase, DuplicateObject, UniqueViolation
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ai_hub.db.connection import connect
from ai_hub.db.tenant_scope import SERVICE_ROLE
from ai_hub.errors import BadInputError
from ai_hub.settings import Settings, postgres_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg
    from sqlalchemy.engine import URL

#: Settings that name a database.
_SETTINGS = ("mlflow_backend_store_uri", "feast_registry_uri")
# any number that no other lock has
_LOCK = 7_236_451_182


@dataclass(frozen=True)
class Provisioned:
    """What became of one database; `outside` when the server of `TIMESCALE_DSN` does not hold it."""

    setting: str
    database: str
    state: Literal["created", "present", "outside"]


def provision_databases(settings: Settings) -> list[Provisioned]:
    """Create the databases that the settings name on the server of `TIMESCALE_DSN`, and their logins.

    A login other than that of `TIMESCALE_DSN` gets the password of its address each time, so a changed
    password needs no more than another call. Safe to repeat and to run twice at once.

    Raises:
        SettingMissingError: `TIMESCALE_DSN` is not set.
        ServiceDownError: the server does not answer.
        BadInputError: a setting is not a database address.
    """
    admin = settings.require("timescale_dsn")
    done = []
    ours: dict[str, URL] = {}
    with connect(admin, autocommit=True, application_name="ai-hub provision") as connection:
        here = postgres_environment(admin)
        for name in _SETTINGS:
            if getattr(settings, name) is None:
                continue
            url = _parse(name, settings.require(name))
            database = url.database or ""
            is_here = url.get_backend_name() == "postgresql" and (
                (url.host, str(url.port or 5432)) == (here["PGHOST"], here["PGPORT"])
            )
            if not is_here:
                done.append(Provisioned(name.upper(), database, "outside"))
                continue
            if url.username and url.username != here["PGUSER"]:
                with _alone(connection):
                    _ensure_login(connection, url.username, url.password)
            created = _ensure_database(connection, database, owner=url.username or here["PGUSER"])
            ours[name] = url
            done.append(Provisioned(name.upper(), database, "created" if created else "present"))
        if settings.service_timescale_dsn is not None:
            with _alone(connection):
                done.append(
                    _ensure_service_login(connection, settings.require("service_timescale_dsn"), here)
                )
        if ours.keys() == set(_SETTINGS):
            _let_mlflow_read(admin, connection, *(ours[name] for name in _SETTINGS))
    return done


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction that another call waits for: PostgreSQL refuses to change one role twice at once."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        yield


def _ensure_service_login(connection: psycopg.Connection, address: str, here: dict[str, str]) -> Provisioned:
    """The REST service's login: a member of its role, which has rights inside the tenant scope only."""
    name = "SERVICE_TIMESCALE_DSN"
    there = postgres_environment(address)
    if (there["PGHOST"], there["PGPORT"]) != (here["PGHOST"], here["PGPORT"]):
        return Provisioned(name, there["PGDATABASE"], "outside")
    login = there["PGUSER"]
    if login == here["PGUSER"]:
        raise BadInputError(
            f"{name} has the login of TIMESCALE_DSN.", hint="Name another one; it will be made."
        )
    existed = _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", login)
    _ensure_login(connection, login, there["PGPASSWORD"] or None)
    if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", SERVICE_ROLE):
        # `ai-hub migrate` makes it, too
        with suppress(DuplicateObject, UniqueViolation), connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(SERVICE_ROLE)))
    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(SERVICE_ROLE), sql.Identifier(login)))
    return Provisioned(name, there["PGDATABASE"], "present" if existed else "created")


def _parse(setting: str, address: str) -> URL:
    try:
        url = make_url(address)
    except (ArgumentError, ValueError) as error:
        # the library's message would repeat the password
        raise BadInputError(
            f"{setting.upper()} is not a database address.",
            hint="Use postgresql://user:password@host:port/database.",
        ) from error
    if not url.database:
        raise BadInputError(f"{setting.upper()} names no database.", hint="End the address with /database.")
    return url


def _ensure_login(connection: psycopg.Connection, name: str, password: str | None) -> None:
    role = sql.Identifier(name)
    if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", name):
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    if password is not None:
        # only the hash travels, so no statement log can hold the password
        hashed = connection.pgconn.encrypt_password(password.encode(), name.encode())
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(hashed.decode()))
        )


def _ensure_database(connection: psycopg.Connection, name: str, *, owner: str) -> bool:
    """Whether the database had to be created."""
    if _exists(connection, "SELECT FROM pg_database WHERE datname = %s", name):
        return False
    database = sql.Identifier(name)
    # template1 of TimescaleDB's image holds the extension, whose background workers nobody needs here
    # nor can it be part of a transaction: another call may be faster
    with suppress(DuplicateDatabase, UniqueViolation):
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(database, sql.Identifier(owner))
        )
    with _alone(connection):
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    return True


def _let_mlflow_read(admin: str, connection: psycopg.Connection, mlflow: URL, feast: URL) -> None:
    """MLflow's server asks Feast's registry what is served (promotion gate `feature_service`)."""
    names = {name: sql.Identifier(url.username or "") for name, url in (("reader", mlflow), ("owner", feast))}
    if names["reader"] == names["owner"] or not (mlflow.username and feast.username):
        return
    database = feast.database or ""
    with _alone(connection):
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {database} TO {reader}").format(
                database=sql.Identifier(database), **names
            )
        )
    with connect(urlsplit(admin)._replace(path=f"/{quote(database)}").geturl()) as there, _alone(there):
        for statement in (
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}",
            # those that `feast apply` has yet to create
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT ON TABLES TO {reader}",
        ):
            there.execute(sql.SQL(statement).format(**names))


def _exists(connection: psycopg.Connection, query: LiteralString, name: str) -> bool:
    return connection.execute(query, [name]).fetchone() is not None
