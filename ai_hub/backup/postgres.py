"""Databases of PostgreSQL: dumped in one snapshot with its inventory, restored in one transaction.

`pg_dump` and `pg_restore` must be of the server's version or newer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.engine import make_url

from ai_hub.backup import inventory
from ai_hub.backup.manifest import Database, describe
from ai_hub.db.connection import connect, is_pooled
from ai_hub.errors import AiHubError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Connection = psycopg.Connection[Any]


#: Debian's folders of the programs; elsewhere they are on the path.
_FOLDERS: Final = Path("/usr/lib/postgresql")
_LINES: Final = 6


class ToolMissingError(AiHubError):
    """PostgreSQL's client programs are not installed in the version that this needs."""

    exit_code = 2

    def __init__(self, name: str, major: int, found: Sequence[int]) -> None:
        self.name, self.major, self.found = name, major, tuple(found)
        installed = f"installed: {', '.join(map(str, sorted(found)))}" if found else "none is installed"
        super().__init__(
            f"{name} of PostgreSQL {major} or newer is needed, as the server has {major}; {installed}.",
            hint=f"Install postgresql-client-{major}; apt.postgresql.org has it for each Debian and Ubuntu.",
        )


class ToolFailedError(AiHubError):
    """`pg_dump` or `pg_restore` failed."""

    def __init__(self, name: str, output: str) -> None:
        self.output = output
        lines = [line for line in output.strip().splitlines() if ": warning:" not in line]
        # the error first: the statement that it quotes can be long
        first = next((number for number, line in enumerate(lines) if ": error:" in line), 0)
        super().__init__(f"{name} failed: " + "\n".join(lines[first : first + _LINES]))


def find_tool(name: str, major: int) -> tuple[Path, int]:
    """The program of version `major`, else the next newer one, and its version.

    Raises:
        ToolMissingError: only older ones are there, or none.
    """
    versions = {_major(path): path for path in _installed(name)}
    fitting = sorted(version for version in versions if version >= major)
    if not fitting:
        raise ToolMissingError(name, major, [*versions])
    return versions[fitting[0]], fitting[0]


def run_tool(program: Path, arguments: Sequence[str], dsn: str) -> None:
    """Run a program on a database; the password is in its environment, not on its command line.

    Raises:
        ToolFailedError: it failed; says how.
    """
    place = conninfo_to_dict(dsn)
    password = place.pop("password", None)
    environment = {**os.environ, "PGTZ": "UTC"} | ({"PGPASSWORD": str(password)} if password else {})
    done = subprocess.run(
        [str(program), *arguments, "--no-password", f"--dbname={make_conninfo('', **place)}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolFailedError(program.name, done.stderr)


def dump_contents(program: Path, dump: Path) -> list[str]:
    """The lines of a dump's table of contents, as `pg_restore --use-list` takes them."""
    done = subprocess.run([str(program), "--list", str(dump)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolFailedError(program.name, done.stderr)
    return done.stdout.splitlines()


def _installed(name: str) -> Iterator[Path]:
    if path := shutil.which(name):
        yield Path(path)
    yield from _FOLDERS.glob(f"*/bin/{name}")


def _major(program: Path) -> int:
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)(?:\.\d+|devel|beta|rc)", done.stdout)
    return int(match[1]) if match else 0


#: How often a dump is tried: a chunk that is dropped while it begins makes it fail.
_TRIES: Final = 3
_SHOWN: Final = 5
#: Said of a database on its way back; until all of a restore is done.
_MARK: Final = "ai-hub restore of backup {}, not finished"


def address(url: str) -> str:
    """The address for PostgreSQL's own tools of an SQLAlchemy URL."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def dump(name: str, dsn: str, folder: Path, *, with_roles: bool = False) -> Database:
    """Dump a database into `folder` as `name`.dump.

    Raises:
        ConflictError: a pooler is between.
        ToolMissingError: `pg_dump` is older than the server.
        ToolFailedError: it failed.
        ServiceDownError: the server does not answer.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return _dump(name, dsn, folder, with_roles=with_roles)
        except ToolFailedError:
            if attempt == _TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def _dump(name: str, dsn: str, folder: Path, *, with_roles: bool) -> Database:
    file = folder / f"{name}.dump"
    with connect(dsn, autocommit=True, application_name="ai-hub backup") as connection:
        _refuse_pooler(name, connection)
        major = server_major(connection)
        program, tool_major = find_tool("pg_dump", major)
        kept = inventory.gather_roles(connection) if with_roles else []
        rights = inventory.database_rights(connection) if with_roles else None
        settings = inventory.database_settings(connection) if with_roles else []
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            inventory.use_plain_text(connection)
            (snapshot,) = connection.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
            facts = inventory.gather_facts(connection)
            version = inventory.timescaledb_version(connection)
            run_tool(program, ["--format=custom", f"--snapshot={snapshot}", f"--file={file}"], dsn)
        return Database(
            kind="postgresql",
            file=describe(file, f"{name}.dump"),
            facts=facts,
            login=connection.info.user,
            server_major=major,
            tool_major=tool_major,
            timescaledb=version,
            roles=kept,
            database_rights=rights,
            database_settings=settings,
        )


def check(name: str, dsn: str, kept: Database, backup_id: str) -> bool:
    """Whether this very dump is in the database already, from a restore that was interrupted.

    Raises:
        ConflictError: something else is in it, or the server cannot take the dump; says what.
        ToolMissingError: `pg_restore` is too old.
    """
    find_tool("pg_restore", kept.tool_major)
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        _refuse_pooler(name, connection)
        if (major := server_major(connection)) < kept.server_major:
            raise ConflictError(
                f"The backup of {name} is of PostgreSQL {kept.server_major}, the server has {major}.",
                hint=f"Restore into PostgreSQL {kept.server_major} or newer.",
            )
        if kept.timescaledb is not None:
            _check_extension(connection, kept.timescaledb)
        if _mark(connection) == _MARK.format(backup_id):
            return bool(inventory.relations(connection))
        refuse_if_filled(name, connection)
        return False


def refuse_if_filled(name: str, connection: Connection) -> None:
    """Make sure that a database is empty.

    Raises:
        ConflictError: it is not; names what is in it.
    """
    if relations := inventory.relations(connection):
        tables = ", ".join(table for _, table in relations[:_SHOWN])
        more = f" and {len(relations) - _SHOWN} more" if len(relations) > _SHOWN else ""
        raise ConflictError(
            f"Database {connection.info.dbname} ({name}) is not empty: it has {tables}{more}.",
            hint="A restore goes into empty servers only: take a new database, or drop this one.",
        )


def restore(dsn: str, kept: Database, dump_file: Path, folder: Path, backup_id: str) -> None:
    """Bring a dump into an empty database, all of it or nothing.

    Raises:
        ToolFailedError: `pg_restore` failed; nothing has changed.
    """
    program, _ = find_tool("pg_restore", kept.tool_major)
    listing = folder / f"{dump_file.name}.list"
    # the extension is there already, in the version of the backup; its comment is its owner's
    listing.write_text(
        "\n".join(line for line in dump_contents(program, dump_file) if " EXTENSION " not in line) + "\n"
    )
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        keeps_owner = connection.info.user == kept.login
        with_roles = bool(kept.roles)
        inventory.restore_roles(connection, kept.roles)
        _set_mark(connection, _MARK.format(backup_id))
        if kept.timescaledb is not None:
            connection.execute(
                sql.SQL("CREATE EXTENSION IF NOT EXISTS timescaledb VERSION {}").format(
                    sql.Literal(kept.timescaledb)
                )
            )
            # tables may be written as they are, and no background job runs until `finish`
            connection.execute("SELECT timescaledb_pre_restore()")
    arguments = ["--single-transaction", "--exit-on-error", f"--use-list={listing}", str(dump_file)]
    if not keeps_owner:
        arguments.insert(0, "--no-owner")
    if not with_roles:
        # the rights on these databases are what `provision` gives
        arguments.insert(0, "--no-acl")
        arguments.insert(0, "--no-owner")
    run_tool(program, arguments, dsn)


def compare(name: str, dsn: str, kept: Database) -> list[str]:
    """Give the database its rights, and say what is not as it was in the backup. Safe to repeat."""
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        if kept.timescaledb is not None and connection.info.user != kept.login:
            _own_jobs(connection, kept.login)
        if kept.roles:
            inventory.restore_database(connection, kept)
        major = server_major(connection)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            inventory.use_plain_text(connection)
            if kept.timescaledb is not None:
                # of this transaction: compressed rows are read, and jobs rest all the same
                connection.execute("SELECT set_config('timescaledb.restoring', 'off', true)")
            after = inventory.gather_facts(connection)
    before = kept.facts
    if not kept.roles:
        before, after = (each.model_copy(update={"rights": []}) for each in (before, after))
    same = major == kept.server_major
    return [f"{name}: {line}" for line in inventory.differences(before, after, same_major=same)]


def finish(dsn: str, kept: Database) -> None:
    """The restore is done: TimescaleDB's jobs run, and from now on the database counts as filled."""
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        if kept.timescaledb is not None:
            connection.execute("SELECT timescaledb_post_restore()")
        connection.execute("ANALYZE")
        _set_mark(connection, None)


def _refuse_pooler(name: str, connection: Connection) -> None:
    """PostgreSQL's tools set a session up for themselves, and others would find it so."""
    if is_pooled(connection):
        raise ConflictError(
            f"The address of {name} leads to a pooler, and pg_dump and pg_restore need the server itself.",
            hint="Set TIMESCALE_DIRECT to its host:port; only `ai-hub backup` and `ai-hub restore` use that.",
        )


def server_major(connection: Connection) -> int:
    """The server's major version."""
    return connection.info.server_version // 10_000


def _check_extension(connection: Connection, version: str) -> None:
    installed = inventory.timescaledb_version(connection)
    row = connection.execute(
        "SELECT FROM pg_available_extension_versions WHERE name = 'timescaledb' AND version = %s", [version]
    ).fetchone()
    if installed not in {None, version} or (installed is None and row is None):
        here = connection.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'"
        ).fetchone()
        present = installed or (here and here[0]) or "none"
        raise ConflictError(
            f"The backup is of TimescaleDB {version}; the server has {present}.",
            hint=f"Restore into a server with {version}, then update it: ALTER EXTENSION timescaledb UPDATE.",
        )


def _own_jobs(connection: Connection, former: str) -> None:
    """Jobs run as whoever made them; the table has had two schemas."""
    for schema in ("_timescaledb_config", "_timescaledb_catalog"):
        if connection.execute("SELECT to_regclass(%s)", [f"{schema}.bgw_job"]).fetchone() != (None,):
            connection.execute(
                sql.SQL(
                    "UPDATE {} SET owner = session_user::regrole WHERE owner = to_regrole(quote_ident(%s))"
                ).format(sql.Identifier(schema, "bgw_job")),
                [former],
            )


def _mark(connection: Connection) -> str | None:
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def _set_mark(connection: Connection, text: str | None) -> None:
    connection.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            sql.Identifier(connection.info.dbname), sql.Literal(text)
        )
    )
