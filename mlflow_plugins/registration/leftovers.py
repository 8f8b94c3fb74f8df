"""Folders that have to go: of deleted versions, and of registrations that ended early.

Each is deleted by one owner; where that one fails or dies, by the next who passes:

- a repetition of the same deletion,
- the next registration or deletion in the same model,
- the next registration in the same tenant; what a registration copied waits a day for its repetition first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database.schema import versions as table
from mlflow_plugins.registration import claims, owners
from mlflow_plugins.registration.records import COPYING, DELETING, GONE, REGISTERED, Record

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey

#: For how long what a failed registration copied waits for its repetition.
KEPT_MS: Final = 24 * 3_600_000


def mark_deleting(session: Session, model: ModelKey, owner: str, version: int | None = None) -> list[Record]:
    """Note that the files of a version (default: of all of the model) are about to go; returns these."""
    mine = sa.and_(model.matches(table), table.c.state == REGISTERED)
    if version is not None:
        mine &= table.c.version == version
    values = {"state": DELETING, "claimed_by": owner, "claimed_at": get_current_time_millis()}
    marked = session.execute(sa.update(table).where(mine).values(**values).returning(table))
    return [Record.of(row) for row in marked]


def resume(
    session: Session, workspace: str, name: str, owner: str, version: int | None = None
) -> list[Record]:
    """Take over what an interrupted deletion of a version (default: of the model) has left."""
    mine = sa.and_(table.c.name == name, table.c.state == DELETING)
    if version is not None:
        mine &= table.c.version == version
    return _take(session, workspace, owner, mine)


def exist(session: Session, workspace: str, name: str) -> bool:
    """Whether `collect` would find something."""
    return bool(_abandoned(session, workspace, _passing(name)))


def collect(session: Session, workspace: str, name: str, owner: str) -> list[Record]:
    """Take over everything that is left behind in model `name`, and what is old in the tenant."""
    return _take(session, workspace, owner, _passing(name))


def finish(session: Session, record: Record) -> None:
    """Note that the files are gone. The number of a version that never was becomes free again."""
    if record.version is None:
        session.execute(sa.delete(table).where(table.c.id == record.id))
    else:
        claims.change(session, record, {"state": GONE})


def _passing(name: str) -> sa.ColumnElement[bool]:
    """What whoever works on model `name` takes along."""
    old = table.c.claimed_at + KEPT_MS < get_current_time_millis()
    return sa.or_(table.c.name == name, table.c.state == DELETING, old)


def _abandoned(session: Session, workspace: str, which: sa.ColumnElement[bool]) -> list[Record]:
    going = table.c.state.in_([COPYING, DELETING])
    rows = session.execute(sa.select(table).where(table.c.workspace == workspace, going, which)).all()
    return [Record.of(row) for row in rows if owners.is_abandoned(row)]


def _take(session: Session, workspace: str, owner: str, which: sa.ColumnElement[bool]) -> list[Record]:
    values = {"state": DELETING, "claimed_by": owner, "claimed_at": get_current_time_millis()}
    return [
        replace(record, state=DELETING, claimed_by=owner)
        for record in _abandoned(session, workspace, which)
        if claims.change(session, record, values)
    ]
