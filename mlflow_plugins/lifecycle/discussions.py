"""Comments on a version, requests for its promotion, and their withdrawal; append-only.

A request is open until it is withdrawn or the version changes its stage, so a promotion answers it and
nothing has to be kept in step.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.database import comments as table
from mlflow_plugins.database import transitions
from mlflow_plugins.errors import bad_input, conflict, forbidden
from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.notifications import outbox
from mlflow_plugins.notifications.outbox import Event
from mlflow_plugins.users import permissions
from mlflow_plugins.users.permissions import Actor, current_actor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.lifecycle.stages import VersionRow
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


COMMENT: Final = "comment"
REQUEST: Final = "request"
WITHDRAWAL: Final = "withdrawal"
#: Characters of one; the audit trail keeps a request's text, and who sent it, as the reason of a promotion.
LONGEST: Final = 4000
#: Entries of a version's thread, and of them between the transitions of a page.
MOST: Final = 1000
_PAGE: Final = 200


@dataclass(frozen=True)
class Comment:
    """One entry of a version's thread; `at_ms` is UTC milliseconds."""

    id: int
    name: str
    version: int
    semantic_version: str | None
    kind: str
    actor: str
    actor_source: str
    text: str
    #: id of the newest transition in the registry when it was written
    last_transition: int
    at_ms: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def append(
    session: Session,
    model: ModelKey,
    *,
    version: int,
    semantic_version: str | None,
    kind: str,
    actor: Actor,
    text: str,
) -> Comment:
    """Append an entry to a thread, inside the transaction that holds the model's lock."""
    row: dict[str, Any] = {
        "workspace": model.workspace,
        "name": model.name,
        "model_created": model.created,
        "version": version,
        "semantic_version": semantic_version,
        "kind": kind,
        "actor": actor.name,
        "actor_source": actor.source,
        "text": text,
        "last_transition": session.scalar(sa.select(sa.func.coalesce(sa.func.max(transitions.c.id), 0))),
        "at_ms": get_current_time_millis(),
    }
    inserted = session.execute(sa.insert(table).values(**row).returning(table))
    comment = _comment(inserted.mappings().one())
    told = {key: row[key] for key in row.keys() - {"model_created", "last_transition", "at_ms", "kind"}}
    line = audit.log_line(_EVENTS[kind], comment.at_ms, told)
    sa.event.listen(session, "after_commit", lambda _: audit.write_log(line), once=True)
    if kind == REQUEST:
        promotion_requested(session, model, comment)
    return comment


def promotion_requested(session: Session, model: ModelKey, request: Comment) -> None:
    """Tell whoever is to hear of a new request for promotion."""
    told = Event(
        kind=outbox.REQUEST,
        workspace=model.workspace,
        model=model.name,
        version=request.version,
        semantic_version=request.semantic_version,
        actor=request.actor,
        actor_source=request.actor_source,
        reason=request.text,
        at_ms=request.at_ms,
        from_stage=rules.STAGING,
    )
    outbox.add(session, told)


def read_thread(session: Session, model: ModelKey, version: int) -> list[Comment]:
    """Everything said about a version, oldest first."""
    query = sa.select(table).where(model.matches(table), table.c.version == version).order_by(table.c.id)
    return [_comment(row) for row in session.execute(query).mappings()]


def count_entries(session: Session, model: ModelKey, version: int) -> int:
    """How many entries a version's thread has."""
    query = sa.select(sa.func.count()).where(model.matches(table), table.c.version == version)
    return session.scalar(query) or 0


def between(session: Session, workspace: str, name: str, newest: int | None, oldest: int) -> list[Comment]:
    """Requests and withdrawals of a model for a page of its audit trail, newest first.

    Args:
        session: of the registry.
        workspace: the tenant.
        name: the model; one of the same name before it counts, as in the trail.
        newest: the transition that begins the page before, None on the first page.
        oldest: the last transition of the page; 0 on the last page.
    """
    query = sa.select(table).where(
        table.c.workspace == workspace,
        table.c.name == name,
        table.c.kind != COMMENT,
        table.c.last_transition >= oldest,
        table.c.last_transition > audit.end_of_former(workspace),
    )
    if newest is not None:
        query = query.where(table.c.last_transition < newest)
    rows = session.execute(query.order_by(table.c.id.desc()).limit(_PAGE)).mappings()
    return [_comment(row) for row in rows]


def open_request(session: Session, model: ModelKey, version: int) -> Comment | None:
    """The request for a version's promotion that nobody answered or withdrew; None when there is none."""
    mine = sa.and_(model.matches(table), table.c.version == version)
    row = session.execute(_open(mine)).mappings().first()
    return _comment(row) if row else None


def open_requests(session: Session, workspaces: Collection[str]) -> list[tuple[str, Comment]]:
    """The requests that wait for an approver in these tenants, the oldest first, each with its tenant."""
    rows = session.execute(_open(table.c.workspace.in_(workspaces)).order_by(table.c.id)).mappings()
    return [(row["workspace"], _comment(row)) for row in rows]


def _open(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    later = table.alias()
    withdrawn = sa.exists().where(
        *(later.c[name] == table.c[name] for name in ("workspace", "name", "model_created", "version")),
        later.c.kind != COMMENT,
        later.c.id > table.c.id,
    )
    moved = sa.exists().where(
        *(transitions.c[name] == table.c[name] for name in ("workspace", "name", "model_created", "version")),
        transitions.c.id > table.c.last_transition,
    )
    versions: Any = SqlModelVersion
    models: Any = SqlRegisteredModel
    is_candidate = sa.exists().where(
        versions.workspace == table.c.workspace,
        versions.name == table.c.name,
        versions.version == table.c.version,
        versions.current_stage == rules.STAGING,
        models.workspace == table.c.workspace,
        models.name == table.c.name,
        models.creation_time == table.c.model_created,
    )
    return sa.select(table).where(condition, table.c.kind == REQUEST, ~withdrawn, ~moved, is_candidate)


_EVENTS: Final = {COMMENT: "comment", REQUEST: "promotion_requested", WITHDRAWAL: "request_withdrawn"}


def _comment(row: sa.RowMapping) -> Comment:
    return Comment(**{name: row[name] for name in Comment.__dataclass_fields__})


class _Thread(NamedTuple):
    """A version's thread, its model's lock, and who writes."""

    session: Session
    model: ModelKey
    row: VersionRow
    actor: Actor

    def open_request(self) -> Comment | None:
        return open_request(self.session, self.model, self.row.version)

    def add_once(self, kind: str, text: str) -> Comment:
        said = read_thread(self.session, self.model, self.row.version)
        if said and (said[-1].kind, said[-1].actor, said[-1].text) == (kind, self.actor.name, text):
            return said[-1]
        return self.add(kind, text)

    def add(self, kind: str, text: str) -> Comment:
        if count_entries(self.session, self.model, self.row.version) >= MOST:
            raise conflict(f"The thread of version {self.row.version} is full: it has {MOST} entries.")
        return append(
            self.session,
            self.model,
            version=self.row.version,
            semantic_version=stages.semantic_version(self.session, self.row),
            kind=kind,
            actor=self.actor,
            text=text,
        )


class Discussions:
    """What is said about versions of the active tenant.

    Writing takes the right to change the model, as moving a version does. What is sent twice is kept once.
    """

    def __init__(self, store: LifecycleStore) -> None:
        self._store = store

    def comment(self, name: str, version: int, text: str, *, claim: str | None = None) -> Comment:
        """Add to a version's thread."""
        with self._writing(name, version, COMMENT, text, claim) as thread:
            return thread.add_once(COMMENT, text)

    def request(self, name: str, version: int, text: str, *, claim: str | None = None) -> Comment:
        """Ask the approvers to promote a version in Staging, and say why.

        Raises:
            MlflowException: 409, it is not in Staging, or somebody asks for it already; 403; 400.
        """
        with self._writing(name, version, REQUEST, text, claim) as thread:
            if thread.row.current_stage != rules.STAGING:
                raise conflict(
                    f"Version {version} of model {name} is in {thread.row.current_stage}; a promotion can be "
                    f"requested of versions in {rules.STAGING}."
                )
            before = thread.open_request()
            if before is None:
                return thread.add(REQUEST, text)
            if (before.actor, before.text) != (thread.actor.name, text):
                raise conflict(
                    f"{before.actor} asks for the promotion of version {version} already. Add a comment, or "
                    f"withdraw that request first."
                )
            return before

    def propose_retraining(self, name: str, version: int, text: str, *, claim: str | None = None) -> Comment:
        """Say in a thread why a model should be trained anew, and tell whoever is to hear of it."""
        with self._writing(name, version, COMMENT, text, claim) as thread:
            before = count_entries(thread.session, thread.model, version)
            comment = thread.add_once(COMMENT, text)
            if count_entries(thread.session, thread.model, version) > before:
                told = Event(
                    kind=outbox.RETRAINING,
                    workspace=thread.model.workspace,
                    model=name,
                    version=version,
                    semantic_version=comment.semantic_version,
                    actor=comment.actor,
                    actor_source=comment.actor_source,
                    reason=text,
                    at_ms=comment.at_ms,
                    from_stage=thread.row.current_stage,
                    to_stage=None,
                )
                outbox.add(thread.session, told)
            return comment

    def withdraw(self, name: str, version: int, text: str, *, claim: str | None = None) -> Comment:
        """Take back one's own request, or as an approver decline somebody's; the version stays in Staging.

        Raises:
            MlflowException: 409, there is none; 403; 400.
        """
        with self._writing(name, version, WITHDRAWAL, text, claim) as thread:
            request = thread.open_request()
            if request is None:
                raise conflict(f"Nobody asks for the promotion of version {version} of model {name}.")
            if request.actor != thread.actor.name and not permissions.is_approver(self._store.tenant()):
                raise forbidden(f"Only {request.actor} or an approver may end this request.")
            return thread.add(WITHDRAWAL, text)

    def thread(self, name: str, version: int) -> list[Comment]:
        """Everything said about a version, oldest first."""
        with self._store.sessions() as session:
            return read_thread(session, self._store.model_key(session, name), version)

    def open_requests(self) -> list[Comment]:
        """What waits for the tenant's approvers, oldest first, as far as the user may read it."""
        with self._store.sessions() as session:
            found = open_requests(session, [self._store.tenant()])
        readable = set(permissions.readable(sorted({comment.name for _, comment in found})))
        return [comment for _, comment in found if comment.name in readable]

    @contextmanager
    def _writing(self, name: str, version: int, kind: str, text: str, claim: str | None) -> Iterator[_Thread]:
        with audit.refusals(self._store.tenant(), name, version, kind, claim):
            permissions.require("update", name)
            if not text.strip():
                raise bad_input("Say something: the text is empty.")
            stages.checked("The text", text, LONGEST)
            with self._store.locked(name, version) as (session, model, row):
                yield _Thread(session, model, row, current_actor(claim))
