"""Semantic versions in use: claimed before their files are copied, registered once these are complete.

A claim is what makes a registration safe to kill: no MLflow version exists until its files do. A claim
whose holder is gone is acquired with all that was copied by the next registration under the same number.

Orphans are folders that have to go: of deleted versions, and of registrations that ended early. Each is
deleted by one holder; where that one fails or dies, by the next who passes:

- a repetition of the same deletion,
- the next registration or deletion in the same model,
- the next registration in the same tenant; what a registration copied waits a day for its repetition first.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database.schema import versions as table
from mlflow_plugins.errors import conflict, unavailable
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion, suggest
from mlflow_plugins.registration import records
from mlflow_plugins.registration.records import COPYING, DELETING, GONE, REGISTERED, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.lifecycle.audit import ModelKey

#: For how long what a failed registration copied waits for its repetition.
KEPT_MS: Final = 24 * 3_600_000


def acquire(
    session: Session,
    model: ModelKey,
    holder: str,
    number: SemanticVersion | None,
    interface: Interface,
    *,
    insist: bool,
    locate: Callable[[str], str | None],
) -> Record:
    """Claim `number` (or, when it is None or taken and `insist` is off, the suggested next one).

    The caller holds the model's lock.

    Args:
        session: in a transaction.
        model: which model.
        holder: for whom (see `records.lease_holder`).
        number: the semantic version.
        interface: what callers of the model depend on.
        insist: whether only `number` will do.
        locate: where a version's files go, by its number.

    Raises:
        MlflowException: 409, the number is taken.
    """
    rows = {
        SemanticVersion.parse(row.semantic_version): row
        for row in session.execute(sa.select(table).where(model.matches(table)))
    }
    left = {number: row for number, row in rows.items() if row.version is None and records.is_abandoned(row)}
    taken = {number: row for number, row in rows.items() if number not in left}
    if number in taken and insist:
        raise _taken(number, taken[number], suggest(max(taken), _previous(taken), interface))
    if number is None or number in taken:
        number = suggest(max(taken, default=None), _previous(taken), interface)
    values = {
        **asdict(interface),
        "state": COPYING,
        "location": locate(str(number)),
        "claimed_by": holder,
        "claimed_at": get_current_time_millis(),
    }
    if number in left:
        return _acquire_abandoned(session, Record.of(left[number]), values)
    key = {
        "workspace": model.workspace,
        "name": model.name,
        "model_created": model.created,
        "semantic_version": str(number),
    }
    return Record.of(session.execute(sa.insert(table).values(**key, **values).returning(table)).one())


def complete(session: Session, claimed: Record, version: int, digest: ManifestDigest | None) -> None:
    """Turn a claim into a registered version.

    Raises:
        MlflowException: 409, somebody acquired the claim meanwhile.
    """
    values: dict[str, Any] = {"version": version, "state": REGISTERED}
    if digest is not None:
        values |= asdict(digest)
    if not change(session, claimed, values):
        raise conflict(
            f"The registration of {claimed.semantic_version} took so long that another one replaced it. "
            "Look at the model's versions, then register again if yours is missing."
        )


def release(session: Session, claimed: Record) -> None:
    """Let anybody acquire the claim after a failure, together with what was copied."""
    change(session, claimed, {"claimed_by": records.NO_HOLDER})


def renew(session: Session, claimed: Record) -> None:
    """Start the claim's lease anew."""
    change(session, claimed, {"claimed_at": get_current_time_millis()})


def change(session: Session, record: Record, values: dict[str, Any]) -> bool:
    """Change a row that still has the state and holder of `record`; returns whether it had."""
    same = sa.and_(
        table.c.id == record.id, table.c.state == record.state, table.c.claimed_by == record.claimed_by
    )
    result = session.execute(sa.update(table).where(same).values(**values))
    return cast("sa.CursorResult[Any]", result).rowcount == 1


def _acquire_abandoned(session: Session, left: Record, values: dict[str, Any]) -> Record:
    if not change(session, left, values):
        raise unavailable(f"What is left of {left.semantic_version} is being deleted. Register again.")
    return Record.of(session.execute(sa.select(table).where(table.c.id == left.id)).one())


def _previous(rows: dict[SemanticVersion, sa.Row[Any]]) -> Interface | None:
    registered = [number for number, row in rows.items() if row.version is not None]
    if not registered:
        return None
    newest = rows[max(registered)]
    return Interface(newest.signature_sha256, newest.feature_service)


def _taken(number: SemanticVersion, row: sa.Row[Any], following: SemanticVersion) -> Exception:
    if row.state == COPYING:
        return conflict(f"{number} is being registered right now. Wait for it, or register as {following}.")
    if row.version is None and row.state == DELETING:
        return conflict(f"What is left of {number} is being deleted. Wait, or register as {following}.")
    gone = "" if row.state == REGISTERED else ", which was deleted; numbers are not used twice"
    return conflict(
        f"{number} is version {row.version} of this model{gone}. "
        f"Register as {following}, or leave the tag out to get the next number."
    )


def mark_deleting(session: Session, model: ModelKey, holder: str, version: int | None = None) -> list[Record]:
    """Note that the files of a version (default: of all of the model) are about to go; returns these."""
    mine = sa.and_(model.matches(table), table.c.state == REGISTERED)
    if version is not None:
        mine &= table.c.version == version
    values = {"state": DELETING, "claimed_by": holder, "claimed_at": get_current_time_millis()}
    marked = session.execute(sa.update(table).where(mine).values(**values).returning(table))
    return [Record.of(row) for row in marked]


def resume_deletion(
    session: Session, workspace: str, name: str, holder: str, version: int | None = None
) -> list[Record]:
    """Acquire what an interrupted deletion of a version (default: of the model) has left."""
    mine = sa.and_(table.c.name == name, table.c.state == DELETING)
    if version is not None:
        mine &= table.c.version == version
    return _acquire_all(session, workspace, holder, mine)


def has_orphans(session: Session, workspace: str, name: str) -> bool:
    """Whether `collect_orphans` would find something."""
    return bool(_abandoned(session, workspace, _passing(name)))


def collect_orphans(session: Session, workspace: str, name: str, holder: str) -> list[Record]:
    """Acquire everything that is left behind in model `name`, and what is old in the tenant."""
    return _acquire_all(session, workspace, holder, _passing(name))


def finish_deletion(session: Session, record: Record) -> None:
    """Note that the files are gone. The number of a version that never was becomes free again."""
    if record.version is None:
        session.execute(sa.delete(table).where(table.c.id == record.id))
    else:
        change(session, record, {"state": GONE})


def _passing(name: str) -> sa.ColumnElement[bool]:
    """What whoever works on model `name` takes along."""
    old = table.c.claimed_at + KEPT_MS < get_current_time_millis()
    return sa.or_(table.c.name == name, table.c.state == DELETING, old)


def _abandoned(session: Session, workspace: str, which: sa.ColumnElement[bool]) -> list[Record]:
    going = table.c.state.in_([COPYING, DELETING])
    rows = session.execute(sa.select(table).where(table.c.workspace == workspace, going, which)).all()
    return [Record.of(row) for row in rows if records.is_abandoned(row)]


def _acquire_all(
    session: Session, workspace: str, holder: str, which: sa.ColumnElement[bool]
) -> list[Record]:
    values = {"state": DELETING, "claimed_by": holder, "claimed_at": get_current_time_millis()}
    return [
        replace(record, state=DELETING, claimed_by=holder)
        for record in _abandoned(session, workspace, which)
        if change(session, record, values)
    ]
