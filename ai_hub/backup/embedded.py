"""Databases of embedded servers: the folder of TimescaleDB, and files of SQLite, copied while in use."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy.engine import make_url

from ai_hub import paths
from ai_hub.backup import inventory
from ai_hub.backup.manifest import Database, Facts, describe
from ai_hub.backup.postgres import server_major
from ai_hub.db.connection import connect
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import URL


#: The server ends a transaction that idles for a minute while others wait.
_AWAKE_S: Final = 10.0
#: Of a running server: its successor would take it for another one's.
_LEFT_OUT: Final = {"postmaster.pid", "postmaster.opts"}
_FOLDER: Final = "data"
#: Tables that `ai-hub up` fills before anybody has used the server.
_FRESH: Final = {
    "public.api_key_revision",
    "public.declared_reaches",
    "public.declared_views",
    "public.feature_hours",
    "public.schema_code",
    "public.schema_migrations",
}
#: Views that somebody has declared beside ours.
_DECLARED: Final = "SELECT FROM declared_views WHERE project <> '' LIMIT 1"
_SHOWN: Final = 5


class EmbeddedServers(Protocol):
    """What a backup asks of the servers of `ai-hub up`; `ai_hub.dev.backup` answers."""

    def includes(self, service: str) -> bool:
        """Whether the service is one of them, and not replaced by an outside server."""

    def is_running(self, service: str) -> bool:
        """Whether the service is one of them, and runs."""

    def stopped(self, *services: str) -> AbstractContextManager[None]:
        """In this block these services are stopped; afterwards they work again."""


def dump(name: str, dsn: str, folder: Path) -> Database:
    """Copy the server's folder into `folder` as `name`.tar; other sessions wait meanwhile.

    Raises:
        ServiceDownError: the server does not answer.
    """
    source = paths.state_dir() / "timescaledb" / _FOLDER
    file = folder / f"{name}.tar"
    with connect(dsn, application_name="ai-hub backup") as connection:
        inventory.use_plain_text(connection)
        facts = inventory.gather_facts(connection)
        version, major = inventory.timescaledb_version(connection), server_major(connection)
        connection.execute("CHECKPOINT")
        awake = time.monotonic()
        with tarfile.open(file, "w") as archive:
            for path in sorted(source.rglob("*")):
                if path.name not in _LEFT_OUT:
                    archive.add(path, str(path.relative_to(source)), recursive=False)
                if time.monotonic() - awake > _AWAKE_S:
                    connection.execute("SELECT")
                    awake = time.monotonic()
        # fails if the server ended the transaction, and with it the rest
        connection.execute("SELECT")
    return Database(
        kind="folder", file=describe(file, file.name), facts=facts, server_major=major, timescaledb=version
    )


def check(name: str, dsn: str, kept: Database) -> None:
    """Make sure that the embedded server is empty, and of the backup's versions.

    Raises:
        ConflictError: it is not.
    """
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        here = (server_major(connection), inventory.timescaledb_version(connection))
        if here != (kept.server_major, kept.timescaledb):
            raise ConflictError(
                f"The backup is of PostgreSQL {kept.server_major} with TimescaleDB {kept.timescaledb}; "
                f"the embedded server has {here[0]} and {here[1]}.",
                hint="Restore with the version of ai-hub that made the backup.",
            )
        inventory.use_plain_text(connection)
        used = [
            table
            for table, (rows, _) in inventory.gather_facts(connection).tables.items()
            if rows and table not in _FRESH
        ]
        if used or connection.execute(_DECLARED).fetchone():
            used = used or ["public.declared_views"]
            raise ConflictError(
                f"The embedded server ({name}) is not empty: it has rows in {', '.join(used[:_SHOWN])}.",
                hint="A restore goes into empty servers only: `ai-hub down --purge`, `ai-hub up --detach`, "
                "and restore again. Or name another folder by AI_HUB_STATE_DIR.",
            )


def restore(archive: Path, servers: EmbeddedServers) -> None:
    """Put the folder in the place of the empty server's, which is started again.

    Killed midway, the next call finds an empty server as this one did.
    """
    home = paths.state_dir() / "timescaledb"
    fresh, data, old = home / "restored.partial", home / _FOLDER, home / "empty.partial"
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as content:
        content.extractall(fresh, filter="data")
    fresh.chmod(0o700)
    with servers.stopped("timescaledb"):
        data.rename(old)
        fresh.rename(data)
    shutil.rmtree(old, ignore_errors=True)


def compare(name: str, dsn: str, kept: Database) -> list[str]:
    """What is not as it was in the backup."""
    with connect(dsn, application_name="ai-hub restore") as connection:
        inventory.use_plain_text(connection)
        facts = inventory.gather_facts(connection)
    return [f"{name}: {line}" for line in inventory.differences(kept.facts, facts, same_major=True)]


def path_of(url: str) -> Path | None:
    """File of an SQLAlchemy URL; None if it is no SQLite database."""
    parsed: URL = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def dump_sqlite(name: str, source: Path, folder: Path) -> Database:
    """Copy a database into `folder` as `name`.sqlite."""
    target = folder / f"{name}.sqlite"
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        # one file: what is in a log beside it would be left behind
        copy.execute("PRAGMA journal_mode = DELETE")
    return Database(kind="sqlite", file=describe(target, target.name), facts=gather_sqlite(target))


def gather_sqlite(path: Path) -> Facts:
    """Rows and a hash of all rows, by table."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        names = [
            str(name)
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        return Facts(tables={name: _content(connection, name) for name in sorted(names)})


def filled_sqlite_tables(path: Path, of_any_start: Mapping[str, int]) -> list[str]:
    """Tables with more rows than a server that was only started writes; none if there is no file."""
    if not path.exists():
        return []
    counts = {name: rows for name, (rows, _) in gather_sqlite(path).tables.items()}
    return [name for name, rows in counts.items() if rows > of_any_start.get(name, 0)]


def compare_sqlite(name: str, path: Path, kept: Database) -> list[str]:
    """What is not as it was in the backup; a server that runs again may have added its own rows."""
    return [
        f"{name}: {line}" for line in inventory.differences(kept.facts, gather_sqlite(path), same_major=True)
    ]


def _content(connection: sqlite3.Connection, table: str) -> tuple[int, str]:
    quoted = table.replace('"', '""')
    total, rows = 0, 0
    for row in connection.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608  # a name of this database
        rows += 1
        total += int.from_bytes(hashlib.sha256(repr(row).encode()).digest()[:8])
    return rows, str(total)
