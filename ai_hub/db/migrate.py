"""Applies `sql/`: run-once migrations, then the re-runnable code when any of its files changed."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from psycopg.errors import (
    DeadlockDetected,
    DependentObjectsStillExist,
    FeatureNotSupported,
    LockNotAvailable,
    UniqueViolation,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from ai_hub import paths
from ai_hub.db import dependents, rights
from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

_FILE_NAME = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")
# any fixed number: two migrations at once wait for each other
_LOCK = 7_236_451_181
_COMMUNITY_LICENCE = "timescale"
# whoever waits for a table makes all later readers wait behind it, so never for long: a few minutes in all
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '2s'"
# a scheduled job may be at work in the same tables, in another order; a reader may be idle in a transaction
_despite_others = retry(
    retry=retry_if_exception_type((DeadlockDetected, LockNotAvailable)),
    stop=stop_after_attempt(100),
    wait=wait_random(0, 2),
    reraise=True,
)


class EditedHistoryError(ConflictError):
    """An applied migration was edited or is missing."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        super().__init__(
            f"Migration {name} was applied to this database and {problem} since.",
            hint="Restore the file as it was; put the change into a new migration.",
        )


class TimescaleLicenceError(ConflictError):
    """The server's TimescaleDB has no continuous aggregates, compression or retention."""

    def __init__(self, licence: str | None) -> None:
        self.licence = licence
        found = "the extension is not installed" if licence is None else f"timescaledb.license is '{licence}'"
        super().__init__(
            f"TimescaleDB with the 'timescale' licence is needed, but {found}.",
            hint="Use an image without '-oss', e.g. timescale/timescaledb:2.31.0-pg17.",
        )


@dataclass
class Outcome:
    """What a call did."""

    applied: list[str] = field(default_factory=list)
    code_applied: bool = False

    @property
    def changed(self) -> bool:
        """Whether the database was changed."""
        return bool(self.applied) or self.code_applied


class _Step(Protocol):
    """Statements that are applied together, and noted as applied."""

    @property
    def texts(self) -> list[str]:
        """The statements."""

    def apply(self, connection: psycopg.Connection) -> None:
        """Run them in the present transaction."""

    def report(self, outcome: Outcome) -> None:
        """Add them to what was done."""


@dataclass(frozen=True)
class Migration:
    """One run-once file."""

    version: int
    path: Path

    @property
    def sha256(self) -> str:
        """Checksum of the file's bytes."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def texts(self) -> list[str]:
        """The file's statements."""
        return [self.path.read_text()]

    def apply(self, connection: psycopg.Connection) -> None:
        """Run the file and note it."""
        connection.execute(self.path.read_bytes())
        connection.execute(
            "INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)",
            [self.version, self.path.name, self.sha256],
        )

    def report(self, outcome: Outcome) -> None:
        """Add its name."""
        outcome.applied.append(self.path.name)


@dataclass(frozen=True)
class Code:
    """The re-runnable files, applied together."""

    files: list[Path]

    @property
    def sha256(self) -> str:
        """Checksum of all files."""
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in self.files)).hexdigest()

    @property
    def texts(self) -> list[str]:
        """The files' statements."""
        return [path.read_text() for path in self.files]

    def apply(self, connection: psycopg.Connection) -> None:
        """Run the files and note them."""
        for path in self.files:
            connection.execute(path.read_bytes())
        connection.execute(
            "INSERT INTO schema_code (sha256) VALUES (%s)"
            " ON CONFLICT (one) DO UPDATE SET sha256 = excluded.sha256, applied_at = now()",
            [self.sha256],
        )

    def report(self, outcome: Outcome) -> None:
        """Say that it was applied."""
        outcome.code_applied = True


def migrations(folder: Path) -> list[Migration]:
    """Migrations in `folder`, in order.

    Raises:
        BadInputError: a name is not `NNNN_name.sql`, or the numbers are not 1, 2, 3, ….
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise BadInputError(
                f"{path.name} is not a migration name.", hint="Name it NNNN_what_it_does.sql."
            )
        found.append(Migration(int(match["version"]), path))
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise BadInputError(
            f"Migration numbers in {folder.name}/ have gaps or repeat.", hint="Number them 0001, 0002, …"
        )
    return found


def migrate(dsn: str | None = None, *, sql: Path | None = None) -> Outcome:
    """Bring the database at `dsn` (default: setting `TIMESCALE_DSN`) to the state of `sql` (default: ours).

    Rights that the code grants and that are gone, for example after a restore without them, are granted anew.
    Every migration is one transaction, so a killed call is safe to repeat. Users' views on ours, and their
    grants on ours, stay. Where there are such views, all is one transaction: one that no longer fits changes
    nothing.

    Raises:
        TimescaleLicenceError: not a TimescaleDB with the community features.
        EditedHistoryError: an applied migration's file differs or is gone.
        ConflictError: others hold locks on what is to be changed, for minutes, or what a user built on it
            cannot be kept.
    """
    sql = sql or paths.resource("sql")
    wanted = migrations(sql / "migrations")
    files = sorted((sql / "code").glob("*.sql"))
    ours = dependents.own_names(path.read_text() for path in (*(each.path for each in wanted), *files))
    outcome = Outcome()
    with connect(dsn, autocommit=True, application_name="ai-hub migrate") as connection:
        check_licence(connection)
        try:
            while not outcome.code_applied and (steps := _advance(connection, wanted, Code(files), ours)):
                for step in steps:
                    step.report(outcome)
        except LockNotAvailable as error:
            raise ConflictError(
                "Other sessions hold what is to be changed, and did not let go of it for minutes.",
                hint="SELECT * FROM pg_stat_activity ORDER BY xact_start shows them. End them and try again.",
            ) from error
        except (DependentObjectsStillExist, FeatureNotSupported) as error:
            if not error.diag.message_detail:
                raise
            raise ConflictError(
                f"{error.diag.message_primary}: {'; '.join(error.diag.message_detail.splitlines())}.",
                hint="Drop what depends on it, run `ai-hub migrate` again, and create it anew.",
            ) from error
    return outcome


def check_licence(connection: psycopg.Connection) -> None:
    """Install the extension where it is available, and check its licence.

    Raises:
        TimescaleLicenceError: the extension or its community features are missing.
    """
    available = connection.execute(
        "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"
    ).fetchone()
    if available is None:
        raise TimescaleLicenceError(None)
    with suppress(UniqueViolation):  # another call was faster
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    row = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    licence = row[0] if row else None
    if licence != _COMMUNITY_LICENCE:
        raise TimescaleLicenceError(licence)


def _applied(connection: psycopg.Connection) -> list[tuple[int, str, str]]:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        " version integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_code ("
        " one boolean PRIMARY KEY DEFAULT true CHECK (one), sha256 text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )
    return connection.execute(
        "SELECT version, name, sha256 FROM schema_migrations ORDER BY version"
    ).fetchall()


def _check_history(applied: list[tuple[int, str, str]], wanted: list[Migration]) -> None:
    for index, (_, name, sha256) in enumerate(applied):
        if index >= len(wanted) or wanted[index].path.name != name:
            raise EditedHistoryError(name, "its file was removed or renamed")
        if wanted[index].sha256 != sha256:
            raise EditedHistoryError(name, "its file was edited")


def _applied_code(connection: psycopg.Connection) -> str | None:
    row = connection.execute("SELECT sha256 FROM schema_code").fetchone()
    return row[0] if row else None


@_despite_others
def _advance(
    connection: psycopg.Connection, wanted: list[Migration], code: Code, ours: frozenset[str]
) -> list[_Step]:
    """Apply what is next in one transaction, and keep what users built on the views that it replaces.

    Returns what was applied: one step, or all that there are where users built on the views; none at the end.
    """
    with connection.transaction():
        # of the transaction: another migration waits, and finds what is done
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(_LOCK_TIMEOUT)
        applied = _applied(connection)
        _check_history(applied, wanted)
        steps: list[_Step] = [*wanted[len(applied) :]]
        if steps or code.sha256 != _applied_code(connection) or rights.are_missing(connection):
            steps.append(code)
        if steps and not dependents.exist(connection, _changes(steps), ours):
            del steps[1:]
        if steps:
            kept = dependents.set_aside(connection, _changes(steps), ours)
            for step in steps:
                step.apply(connection)
            dependents.put_back(connection, kept)
        if any(isinstance(step, Code) for step in steps):
            rights.note(connection)
    return steps


def _changes(steps: Sequence[_Step]) -> dependents.Changes:
    return dependents.Changes.of(text for step in steps for text in step.texts)
