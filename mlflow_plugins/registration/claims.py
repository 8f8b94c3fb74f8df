"""Semantic versions in use: claimed before their files are copied, registered once these are complete.

A claim is what makes a registration safe to kill: no MLflow version exists until its files do. A claim
whose owner is gone is taken over with all that was copied, by the next registration under the same number.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database.schema import versions as table
from mlflow_plugins.errors import conflict, unavailable
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion, suggest
from mlflow_plugins.registration import owners
from mlflow_plugins.registration.records import COPYING, DELETING, REGISTERED, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.lifecycle.audit import ModelKey


def claim(
    session: Session,
    model: ModelKey,
    owner: str,
    wanted: SemanticVersion | None,
    interface: Interface,
    *,
    insist: bool,
    locate: Callable[[str], str | None],
) -> Record:
    """Reserve `wanted` (or, when it is None or taken and `insist` is off, the suggested next number).

    The caller holds the model's lock.

    Args:
        session: in a transaction.
        model: which model.
        owner: for whom (see `owners`).
        wanted: the number.
        interface: what callers of the model depend on.
        insist: whether only `wanted` will do.
        locate: where a version's files go, by its number.

    Raises:
        MlflowException: 409, the number is taken.
    """
    rows = {
        SemanticVersion.parse(row.semantic_version): row
        for row in session.execute(sa.select(table).where(model.matches(table)))
    }
    left = {number: row for number, row in rows.items() if row.version is None and owners.is_abandoned(row)}
    taken = {number: row for number, row in rows.items() if number not in left}
    if wanted in taken and insist:
        raise _taken(wanted, taken[wanted], suggest(max(taken), _previous(taken), interface))
    if wanted is None or wanted in taken:
        wanted = suggest(max(taken, default=None), _previous(taken), interface)
    values = {
        **asdict(interface),
        "state": COPYING,
        "location": locate(str(wanted)),
        "claimed_by": owner,
        "claimed_at": get_current_time_millis(),
    }
    if wanted in left:
        return _take_over(session, Record.of(left[wanted]), values)
    key = {
        "workspace": model.workspace,
        "name": model.name,
        "model_created": model.created,
        "semantic_version": str(wanted),
    }
    return Record.of(session.execute(sa.insert(table).values(**key, **values).returning(table)).one())


def complete(session: Session, claimed: Record, version: int, digest: ManifestDigest | None) -> None:
    """Turn a claim into a registered version.

    Raises:
        MlflowException: 409, somebody took the claim over meanwhile.
    """
    values: dict[str, Any] = {"version": version, "state": REGISTERED}
    if digest is not None:
        values |= asdict(digest)
    if not change(session, claimed, values):
        raise conflict(
            f"The registration of {claimed.semantic_version} took so long that another one replaced it. "
            "Look at the model's versions, then register again if yours is missing."
        )


def give_up(session: Session, claimed: Record) -> None:
    """Let anybody have the claim after a failure, together with what was copied."""
    change(session, claimed, {"claimed_by": owners.NOBODY})


def renew(session: Session, claimed: Record) -> None:
    """Start the claim's lease anew."""
    change(session, claimed, {"claimed_at": get_current_time_millis()})


def change(session: Session, record: Record, values: dict[str, Any]) -> bool:
    """Change a row that still has the state and owner of `record`; whether it had."""
    same = sa.and_(
        table.c.id == record.id, table.c.state == record.state, table.c.claimed_by == record.claimed_by
    )
    result = session.execute(sa.update(table).where(same).values(**values))
    return cast("sa.CursorResult[Any]", result).rowcount == 1


def _take_over(session: Session, left: Record, values: dict[str, Any]) -> Record:
    if not change(session, left, values):
        raise unavailable(f"What is left of {left.semantic_version} is being deleted. Register again.")
    return Record.of(session.execute(sa.select(table).where(table.c.id == left.id)).one())


def _previous(rows: dict[SemanticVersion, sa.Row[Any]]) -> Interface | None:
    registered = [number for number, row in rows.items() if row.version is not None]
    if not registered:
        return None
    newest = rows[max(registered)]
    return Interface(newest.signature_sha256, newest.feature_service)


def _taken(wanted: SemanticVersion, row: sa.Row[Any], following: SemanticVersion) -> Exception:
    if row.state == COPYING:
        return conflict(f"{wanted} is being registered right now. Wait for it, or register as {following}.")
    if row.version is None and row.state == DELETING:
        return conflict(f"What is left of {wanted} is being deleted. Wait, or register as {following}.")
    gone = "" if row.state == REGISTERED else ", which was deleted; numbers are not used twice"
    return conflict(
        f"{wanted} is version {row.version} of this model{gone}. "
        f"Register as {following}, or leave the tag out to get the next number."
    )
