"""Semantic versions in use: claimed before their files are copied, registered once these are complete.

A claim is what makes a registration safe to kill: no MLflow version exists until its files do, and a claim
whose process is gone is taken over by the next attempt.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import psutil
import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database.schema import versions as table
from mlflow_plugins.errors import conflict
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion, suggest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.manifest import Sealed
    from mlflow_plugins.lifecycle.audit import ModelKey

COPYING: Final = "copying"
REGISTERED: Final = "registered"
DELETING: Final = "deleting"
GONE: Final = "deleted"

#: After this long a claim made on another machine counts as abandoned.
LEASE_MS: Final = 3_600_000


@dataclass(frozen=True)
class Record:
    """A row of `lifecycle_versions`."""

    id: int
    semantic_version: str
    version: int | None
    state: str
    location: str | None
    manifest_sha256: str | None
    size_bytes: int | None = None


def claim(
    session: Session, model: ModelKey, wanted: SemanticVersion | None, interface: Interface, *, insist: bool
) -> Record:
    """Reserve `wanted` (or, when it is None or taken and `insist` is off, the suggested next number).

    The caller holds the model's lock.

    Raises:
        MlflowException: 409, the number is taken.
    """
    rows = {
        SemanticVersion.parse(row.semantic_version): row
        for row in session.execute(sa.select(table).where(model.matches(table)))
    }
    abandoned = {number for number, row in rows.items() if row.state == COPYING and _is_abandoned(row)}
    for number in abandoned:
        session.execute(sa.delete(table).where(table.c.id == rows.pop(number).id))
    if wanted in rows and insist:
        raise _taken(wanted, rows[wanted], suggest(max(rows), _previous(rows), interface))
    if wanted is None or wanted in rows:
        wanted = suggest(max(rows, default=None), _previous(rows), interface)
    inserted = session.execute(
        sa.insert(table).values(
            workspace=model.workspace,
            name=model.name,
            model_created=model.created,
            semantic_version=str(wanted),
            state=COPYING,
            **asdict(interface),
            claimed_by=_this_process(),
            claimed_at=get_current_time_millis(),
        )
    )
    key = cast("sa.CursorResult[Any]", inserted).inserted_primary_key
    return Record(key[0] if key else 0, str(wanted), None, COPYING, None, None)


def complete(
    session: Session, claimed: Record, version: int, location: str | None, sealed: Sealed | None
) -> None:
    """Turn a claim into a registered version.

    Raises:
        MlflowException: 409, somebody took the claim over meanwhile.
    """
    values = {"version": version, "state": REGISTERED, "location": location}
    if sealed is not None:
        values |= asdict(sealed)
    mine = sa.and_(table.c.id == claimed.id, table.c.state == COPYING)
    result = session.execute(sa.update(table).where(mine).values(**values))
    if cast("sa.CursorResult[Any]", result).rowcount != 1:
        raise conflict(
            f"The registration of {claimed.semantic_version} took so long that another one replaced it. "
            "Look at the model's versions, then register again if yours is missing."
        )


def release(session: Session, claimed: Record) -> None:
    """Give a claim back after a failure."""
    session.execute(sa.delete(table).where(table.c.id == claimed.id, table.c.state == COPYING))


def exist(session: Session, model: ModelKey) -> bool:
    """Whether the model has or had versions, or is getting its first."""
    return session.execute(sa.select(table.c.id).where(model.matches(table)).limit(1)).first() is not None


def find(session: Session, model: ModelKey, version: int) -> Record | None:
    """The record of an MLflow version; None when it was registered before this plugin."""
    query = sa.select(table).where(model.matches(table), table.c.version == version)
    row = session.execute(query).first()
    return _record(row) if row else None


def registered(session: Session, model: ModelKey) -> list[Record]:
    """The records of all of a model's versions that have their files."""
    query = sa.select(table).where(model.matches(table), table.c.state == REGISTERED)
    return [_record(row) for row in session.execute(query)]


def numbered(session: Session, model: ModelKey, number: SemanticVersion) -> Record | None:
    """The record of a semantic version, whatever became of it."""
    row = session.execute(
        sa.select(table).where(model.matches(table), table.c.semantic_version == str(number))
    ).first()
    return _record(row) if row else None


def mark_deleting(session: Session, model: ModelKey, version: int | None = None) -> None:
    """Note that the files of a version (or of all) are to go."""
    which = model.matches(table) if version is None else model.matches(table) & (table.c.version == version)
    session.execute(sa.update(table).where(which, table.c.state == REGISTERED).values(state=DELETING))


def to_delete(session: Session, workspace: str, name: str) -> list[Record]:
    """Versions whose files are still to go, of every model that ever had this name."""
    query = sa.select(table).where(
        table.c.workspace == workspace, table.c.name == name, table.c.state == DELETING
    )
    return [_record(row) for row in session.execute(query)]


def mark_gone(session: Session, record: Record) -> None:
    """Note that a version's files are deleted."""
    session.execute(sa.update(table).where(table.c.id == record.id).values(state=GONE))


def _record(row: sa.Row[Any]) -> Record:
    return Record(**{name: getattr(row, name) for name in Record.__dataclass_fields__})


def _previous(rows: dict[SemanticVersion, sa.Row[Any]]) -> Interface | None:
    registered = [number for number, row in rows.items() if row.version is not None]
    if not registered:
        return None
    newest = rows[max(registered)]
    return Interface(newest.signature_sha256, newest.feature_service)


def _taken(wanted: SemanticVersion, row: sa.Row[Any], following: SemanticVersion) -> Exception:
    if row.state == COPYING:
        return conflict(f"{wanted} is being registered right now. Wait for it, or register as {following}.")
    gone = "" if row.state == REGISTERED else ", which was deleted; numbers are not used twice"
    return conflict(
        f"{wanted} is version {row.version} of this model{gone}. "
        f"Register as {following}, or leave the tag out to get the next number."
    )


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}"


def _is_abandoned(row: sa.Row[Any]) -> bool:
    host, pid, started = row.claimed_by.rsplit(":", 2)
    if host == socket.gethostname():
        try:
            return str(psutil.Process(int(pid)).create_time()) != started
        except psutil.NoSuchProcess:
            return True
    return bool(row.claimed_at + LEASE_MS < get_current_time_millis())
