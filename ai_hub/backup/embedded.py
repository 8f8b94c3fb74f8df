"""The embedded TimescaleDB: its folder, copied while its one backend rests.

`pg_dump` of PostgreSQL 17 is on few machines, and the server takes no `COPY … FROM STDIN`. It has no
background processes, so while a transaction of ours is open nothing writes to the folder: a copy is what a
crash would leave.
"""

from __future__ import annotations

import shutil
import tarfile
import time
from typing import TYPE_CHECKING, Final, Protocol

from ai_hub import paths
from ai_hub.backup import facts
from ai_hub.backup.manifest import Database, describe
from ai_hub.backup.postgres import server_major
from ai_hub.database.connection import connect
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

#: The server ends a transaction that idles for a minute while others wait.
_AWAKE_S: Final = 10.0
#: Of a running server: its successor would take it for another one's.
_LEFT_OUT: Final = {"postmaster.pid", "postmaster.opts"}
_FOLDER: Final = "data"
#: Tables that `ai-hub up` fills before anybody has used the server.
_FRESH: Final = {
    "public.api_key_revision",
    "public.feature_hours",
    "public.schema_code",
    "public.schema_migrations",
}
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
        facts.use_plain_text(connection)
        found = facts.gather(connection)
        version, major = facts.timescaledb_version(connection), server_major(connection)
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
        kind="folder", file=describe(file, file.name), facts=found, server_major=major, timescaledb=version
    )


def check(name: str, dsn: str, kept: Database) -> None:
    """Make sure that the embedded server is empty, and of the backup's versions.

    Raises:
        ConflictError: it is not.
    """
    with connect(dsn, autocommit=True, application_name="ai-hub restore") as connection:
        here = (server_major(connection), facts.timescaledb_version(connection))
        if here != (kept.server_major, kept.timescaledb):
            raise ConflictError(
                f"The backup is of PostgreSQL {kept.server_major} with TimescaleDB {kept.timescaledb}; "
                f"the embedded server has {here[0]} and {here[1]}.",
                hint="Restore with the version of ai-hub that made the backup.",
            )
        facts.use_plain_text(connection)
        if used := [
            table
            for table, (rows, _) in facts.gather(connection).tables.items()
            if rows and table not in _FRESH
        ]:
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
        facts.use_plain_text(connection)
        found = facts.gather(connection)
    return [f"{name}: {line}" for line in facts.differences(kept.facts, found, same_major=True)]
