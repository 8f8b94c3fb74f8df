"""Removed tenants: who removed them and why, and whether their names may be used again.

A name stays reserved from the moment its removal starts until everything that carried it is dealt with,
outside this registry as well. Whoever gets the name then sees nothing of the trail from before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database import removals as table
from mlflow_plugins.database import transitions, versions
from mlflow_plugins.lifecycle import audit
from mlflow_plugins.users.actor import Actor

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


#: Its models are gone from the database, its files may not be.
STARTED: Final = "started"
#: Nothing of it is left here; what other databases have of it may be.
REMOVED: Final = "removed"
#: The same, but its files were to stay.
KEPT: Final = "kept"
#: Everything is dealt with: the name may be used again.
RELEASED: Final = "released"


@dataclass(frozen=True)
class Removal:
    """One step of a tenant's removal; `at_ms` is UTC milliseconds, `counts` what went (or stays) by kind."""

    workspace: str
    step: str
    actor: str
    actor_source: str
    reason: str | None
    counts: dict[str, int]
    at_ms: int

    @property
    def who(self) -> Actor:
        """Whose removal it is."""
        return Actor(self.actor, cast("Any", self.actor_source))

    @property
    def reserves(self) -> bool:
        """Whether nobody may use the tenant's name, if this is its last step."""
        return self.step != RELEASED

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "reserved": self.reserves}


def last(session: Session, workspace: str) -> Removal | None:
    """The last step of the removal of a tenant of this name; None when none was ever removed."""
    query = sa.select(table).where(table.c.workspace == workspace).order_by(table.c.id.desc()).limit(1)
    row = session.execute(query).mappings().first()
    return _removal(row) if row else None


def last_of_all(session: Session) -> list[Removal]:
    """The last step of every removed tenant, by name."""
    newest = sa.select(sa.func.max(table.c.id)).group_by(table.c.workspace)
    rows = session.execute(sa.select(table).where(table.c.id.in_(newest)).order_by(table.c.workspace))
    return [_removal(row) for row in rows.mappings()]


def record(
    session: Session,
    workspace: str,
    step: str,
    *,
    actor: Actor,
    reason: str | None,
    counts: dict[str, int],
) -> Removal:
    """Append a step, and once it is committed one line to the audit log."""
    row: dict[str, Any] = {
        "workspace": workspace,
        "step": step,
        "actor": actor.name,
        "actor_source": actor.source,
        "reason": reason,
        "at_ms": get_current_time_millis(),
    }
    end = sa.select(sa.func.coalesce(sa.func.max(transitions.c.id), 0)).scalar_subquery()
    session.execute(
        sa.insert(table).values(**row, counts=json.dumps(counts, sort_keys=True), last_transition=end)
    )
    told = {key: value for key, value in row.items() if key != "at_ms"}
    line = audit.log_line("tenant_removal", row["at_ms"], {**told, "counts": counts})
    sa.event.listen(session, "after_commit", lambda _: audit.write_log(line), once=True)
    return Removal(**row, counts=counts)


def traces(session: Session, workspace: str) -> dict[str, int]:
    """Rows of the trail and of versions that carry this name, apart from those of removed tenants."""
    later = sa.and_(transitions.c.workspace == workspace, transitions.c.id > audit.end_of_former(workspace))
    present = sa.and_(versions.c.workspace == workspace, versions.c.state != "deleted")
    return {
        "trail": session.scalar(sa.select(sa.func.count()).select_from(transitions).where(later)) or 0,
        "versions": session.scalar(sa.select(sa.func.count()).select_from(versions).where(present)) or 0,
    }


def _removal(row: sa.RowMapping) -> Removal:
    values = {name: row[name] for name in Removal.__dataclass_fields__ if name != "counts"}
    return Removal(**values, counts=json.loads(row["counts"]))
