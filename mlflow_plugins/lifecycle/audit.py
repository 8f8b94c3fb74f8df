"""The append-only trail of stage changes, the questions it answers, and the audit log.

The log has one line of JSON an event on the logger `ai_hub.audit`, for whoever collects logs. Every line has
`event` (`transition`, or `refused`), `at` (UTC, ISO 8601), `workspace`, `name` (the model), `version`,
`to_stage`, `actor` and `actor_source`. A transition adds what its row in the database says:
`semantic_version`, `from_stage`, `reason`, `evidence`. A refusal adds `status` (HTTP) and `message`.

The end of a tenant is a `tenant_removal` for each `step` (with `reason` and `counts`), or a
`refused_tenant_removal`; both have `workspace`, `actor` and `actor_source`.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database import removals
from mlflow_plugins.database import transitions as table
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.users.permissions import current_actor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy.orm import Session

    from mlflow_plugins.users.permissions import Actor


_TIME: Final = "lifecycle_time"


@dataclass(frozen=True)
class ModelKey:
    """One registered model; `created` (ms) tells it from an earlier, deleted one of the same name."""

    workspace: str
    name: str
    created: int

    def matches(self, target: sa.Table) -> sa.ColumnElement[bool]:
        """Condition for the rows of this model."""
        return sa.and_(
            target.c.workspace == self.workspace,
            target.c.name == self.name,
            target.c.model_created == self.created,
        )


@dataclass(frozen=True)
class Transition:
    """One change of stage; `at_ms` is UTC milliseconds, `from_stage` None on registration."""

    id: int
    name: str
    version: int
    semantic_version: str | None
    from_stage: str | None
    to_stage: str
    actor: str
    actor_source: str
    reason: str | None
    evidence: dict[str, Any]
    at_ms: int


def record(
    session: Session,
    model: ModelKey,
    *,
    version: int,
    semantic_version: str | None,
    from_stage: str | None,
    to_stage: str,
    actor: Actor,
    reason: str | None,
    evidence: dict[str, Any],
) -> Transition:
    """Append one row, and once it is committed one line to the audit log."""
    row: dict[str, Any] = {
        "workspace": model.workspace,
        "name": model.name,
        "model_created": model.created,
        "version": version,
        "semantic_version": semantic_version,
        "from_stage": from_stage,
        "to_stage": to_stage,
        "actor": actor.name,
        "actor_source": actor.source,
        "reason": reason,
        "at_ms": _time(session, model),
    }
    inserted = session.execute(
        sa.insert(table).values(**row, evidence=json.dumps(evidence, sort_keys=True)).returning(table)
    )
    told = {key: value for key, value in row.items() if key not in {"model_created", "at_ms"}}
    line = log_line("transition", row["at_ms"], {**told, "evidence": evidence})
    sa.event.listen(session, "after_commit", lambda _: write_log(line), once=True)
    return _transition(inserted.mappings().one())


def history(
    session: Session,
    workspace: str,
    name: str,
    *,
    version: int | None = None,
    before: int | None = None,
    limit: int = 1000,
) -> list[Transition]:
    """Transitions of a model, newest first, those of an earlier model of the same name included.

    `before` is the id of a transition: only older ones, which is how to turn pages.
    """
    query = sa.select(table).where(_of_model(workspace, name))
    if version is not None:
        query = query.where(table.c.version == version)
    if before is not None:
        query = query.where(table.c.id < before)
    rows = session.execute(query.order_by(table.c.id.desc()).limit(limit)).mappings()
    return [_transition(row) for row in rows]


def production_at(session: Session, workspace: str, name: str, at_ms: int) -> Transition | None:
    """The transition that put into Production what was there at `at_ms`; None when nothing was."""
    touches_production = sa.or_(table.c.to_stage == rules.PRODUCTION, table.c.from_stage == rules.PRODUCTION)
    query = (
        sa.select(table)
        .where(_of_model(workspace, name), table.c.at_ms <= at_ms)
        .where(touches_production)
        .order_by(table.c.id.desc())
        .limit(1)
    )
    row = session.execute(query).mappings().first()
    return _transition(row) if row and row["to_stage"] == rules.PRODUCTION else None


def same_move(session: Session, workspace: str, name: str, own: int) -> list[Transition]:
    """A transition by its id, then those of whom it displaced; empty when it is not of this model."""
    of_model = _of_model(workspace, name)
    at_ms = sa.select(table.c.at_ms).where(of_model, table.c.id == own).scalar_subquery()
    query = sa.select(table).where(of_model, table.c.at_ms == at_ms, table.c.id <= own)
    rows = [_transition(row) for row in session.execute(query.order_by(table.c.id.desc())).mappings()]
    return [row for row in rows if row.id == own or row.evidence.get("displaced_by") == rows[0].version]


def last_promotions(session: Session, workspace: str) -> dict[str, Transition]:
    """The last promotion of each of a workspace's models, by name."""
    newest = (
        sa.select(sa.func.max(table.c.id))
        .where(_of_tenant(workspace), table.c.to_stage == rules.PRODUCTION)
        .group_by(table.c.name)
    )
    rows = session.execute(sa.select(table).where(table.c.id.in_(newest))).mappings()
    return {row["name"]: _transition(row) for row in rows}


def last_of_others(
    session: Session, workspace: str, present: sa.Select[tuple[str]], limit: int
) -> list[Transition]:
    """The last transition of each of a workspace's models that `present` does not name, newest first."""
    newest = sa.select(sa.func.max(table.c.id)).where(_of_tenant(workspace)).group_by(table.c.name)
    query = sa.select(table).where(table.c.id.in_(newest), table.c.name.not_in(present))
    rows = session.execute(query.order_by(table.c.id.desc()).limit(limit)).mappings()
    return [_transition(row) for row in rows]


def present_entries(session: Session, model: ModelKey) -> dict[int, Transition]:
    """The newest transition of each of a model's versions, by version."""
    newest = sa.select(sa.func.max(table.c.id)).where(model.matches(table)).group_by(table.c.version)
    rows = session.execute(sa.select(table).where(table.c.id.in_(newest))).mappings()
    return {row["version"]: _transition(row) for row in rows}


def was_in_production(session: Session, model: ModelKey, version: int) -> bool:
    """Whether this version ever was in Production."""
    query = sa.select(table.c.id).where(
        model.matches(table), table.c.version == version, table.c.to_stage == rules.PRODUCTION
    )
    return session.execute(query.limit(1)).first() is not None


def last_in_production(session: Session, model: ModelKey) -> list[int]:
    """Versions that were in Production, the one promoted last in front."""
    query = (
        sa.select(table.c.version)
        .where(model.matches(table), table.c.to_stage == rules.PRODUCTION)
        .group_by(table.c.version)
        .order_by(sa.func.max(table.c.id).desc())
    )
    return list(session.scalars(query))


def entered_at(session: Session, model: ModelKey, version: int, stage: str) -> int | None:
    """When (UTC ms) this version entered `stage` last; None when it never did."""
    entries = sa.select(sa.func.max(table.c.at_ms)).where(
        model.matches(table), table.c.version == version, _enters(stage)
    )
    return session.scalar(entries)


def entered_last(model: ModelKey, stage: str, among: sa.Select[Any]) -> sa.ScalarSelect[int]:
    """Of the versions `among` the one that entered `stage` last; NULL if none ever did."""
    query = sa.select(table.c.version).where(model.matches(table), _enters(stage), table.c.version.in_(among))
    return cast("sa.ScalarSelect[int]", query.order_by(table.c.id.desc()).limit(1).scalar_subquery())


def end_of_former(workspace: str) -> sa.ScalarSelect[int]:
    """The id of the last transition of former tenants of this name; 0 when there was none."""
    ends = sa.select(sa.func.coalesce(sa.func.max(removals.c.last_transition), 0))
    return cast("sa.ScalarSelect[int]", ends.where(removals.c.workspace == workspace).scalar_subquery())


def as_json(transition: Transition) -> dict[str, Any]:
    """The transition as plain values."""
    return asdict(transition)


def _enters(stage: str) -> sa.ColumnElement[bool]:
    """Condition for rows that are an entry; an adoption also notes what it changed while the stage stayed."""
    return sa.and_(table.c.to_stage == stage, table.c.from_stage.is_distinct_from(stage))


def _of_tenant(workspace: str) -> sa.ColumnElement[bool]:
    """Condition for the rows of a tenant, and of no former one of the same name."""
    return sa.and_(table.c.workspace == workspace, table.c.id > end_of_former(workspace))


def _of_model(workspace: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(_of_tenant(workspace), table.c.name == name)


def _time(session: Session, model: ModelKey) -> int:
    """The one time of everything this transaction records: a swap leaves no moment without production."""
    if _TIME not in session.info:
        newest = session.scalar(sa.select(sa.func.max(table.c.at_ms)).where(model.matches(table)))
        # a clock set back must not reorder the trail
        session.info[_TIME] = max(get_current_time_millis(), newest or 0)
    return int(session.info[_TIME])


def _transition(row: sa.RowMapping) -> Transition:
    values = {name: row[name] for name in Transition.__dataclass_fields__ if name != "evidence"}
    return Transition(**values, evidence=json.loads(row["evidence"]))


LOGGER: Final = "ai_hub.audit"
_log: Final = logging.getLogger(LOGGER)


def start_log(path: Path | None) -> None:
    """Write the lines of this process to `path` (it may be rotated), else to standard output."""
    if not _log.handlers:
        handler = WatchedFileHandler(path) if path else logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)


def log_line(event: str, at_ms: int, fields: dict[str, Any]) -> str:
    """The JSON text of an event; `at_ms` is UTC milliseconds."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"event": event, "at": at, **fields}, sort_keys=True)


def write_log(text: str) -> None:
    """Write one line."""
    _log.info("%s", text)


def refusals(
    workspace: str, name: str, version: int | str, to_stage: str, claim: str | None
) -> AbstractContextManager[None]:
    """Whatever this block refuses is an event, too."""
    about = {"workspace": workspace, "name": name, "version": version, "to_stage": to_stage}
    return _refusals("refused", about, claim)


def refused_removals(workspace: str) -> AbstractContextManager[None]:
    """Whatever this block refuses of a tenant's removal is an event, too."""
    return _refusals("refused_tenant_removal", {"workspace": workspace}, None)


@contextmanager
def _refusals(event: str, about: dict[str, Any], claim: str | None) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        actor = current_actor(claim)
        fields = {
            **about,
            "actor": actor.name,
            "actor_source": actor.source,
            "status": error.get_http_status_code(),
            "message": error.message,
        }
        write_log(log_line(event, int(datetime.now(UTC).timestamp() * 1000), fields))
        raise
