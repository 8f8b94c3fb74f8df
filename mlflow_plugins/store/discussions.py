"""Requests for promotion and comments in one registry."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from mlflow_plugins.errors import bad_input, conflict, forbidden
from mlflow_plugins.lifecycle import audit, comments, rules, stages
from mlflow_plugins.lifecycle.comments import COMMENT, LONGEST, REQUEST, WITHDRAWAL, Comment
from mlflow_plugins.users import permissions
from mlflow_plugins.users.actor import Actor, current_actor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.lifecycle.stages import VersionRow
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


class _Thread(NamedTuple):
    """A version's thread, its model's lock, and who writes."""

    session: Session
    model: ModelKey
    row: VersionRow
    actor: Actor

    def open_request(self) -> Comment | None:
        return comments.open_request(self.session, self.model, self.row.version)

    def add_once(self, kind: str, text: str) -> Comment:
        said = comments.thread(self.session, self.model, self.row.version)
        if said and (said[-1].kind, said[-1].actor, said[-1].text) == (kind, self.actor.name, text):
            return said[-1]
        return self.add(kind, text)

    def add(self, kind: str, text: str) -> Comment:
        if comments.count(self.session, self.model, self.row.version) >= comments.MOST:
            raise conflict(
                f"The thread of version {self.row.version} is full: it has {comments.MOST} entries."
            )
        return comments.add(
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
            return comments.thread(session, self._store.model_key(session, name), version)

    def open_requests(self) -> list[Comment]:
        """What waits for the tenant's approvers, oldest first, as far as the user may read it."""
        with self._store.sessions() as session:
            found = comments.open_requests(session, [self._store.tenant()])
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
