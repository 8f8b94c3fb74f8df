"""What every method of the lifecycle store builds on: our tables, the model's lock, prompts left alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES, MLFLOW_WEBHOOK_CACHE_TTL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.entities import PagedList
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from mlflow_plugins.adoption import unadopted
from mlflow_plugins.database import JoiningSessionMaker, migrate
from mlflow_plugins.errors import missing
from mlflow_plugins.lifecycle import aliases, stages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from mlflow.entities.webhook import Webhook, WebhookEvent
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey

#: What MLflow's column of version numbers holds.
LARGEST_VERSION: Final = 2**31 - 1

SCHEME_PREFIX: Final = "lifecycle+"


class BaseStore(WorkspaceAwareSqlAlchemyStore):
    """MLflow's SQL registry, with and without workspaces, plus our tables."""

    def __init__(self, store_uri: str) -> None:
        if MLFLOW_ENABLE_WORKSPACES.get():
            # MLflow keeps webhooks by event, not by workspace: one tenant would hear of another's models
            MLFLOW_WEBHOOK_CACHE_TTL.set(0)
        super().__init__(store_uri.removeprefix(SCHEME_PREFIX))
        self._begin()
        self._sessions = JoiningSessionMaker(self.ManagedSessionMaker)
        self.ManagedSessionMaker = self._sessions

    def _begin(self) -> None:
        """Make sure that all versions are known to our rules.

        Raises:
            MlflowException: 409, plain MLflow registered some of them.
        """
        if found := unadopted.find(self.engine):
            error = unadopted.refusal(found)
            if click.get_current_context(silent=True) is not None:
                raise SystemExit(error.message)  # `mlflow server` would print a traceback
            raise error
        migrate(self.engine)
        unadopted.switch_over(self.engine)

    def _initialize_store_state(self) -> None:
        if not MLFLOW_ENABLE_WORKSPACES.get():
            # refuses to start without workspaces on a database that has models in several
            SqlAlchemyStore._initialize_store_state(self)  # noqa: SLF001 - skips the parent's variant of this method

    def sessions(self) -> AbstractContextManager[Session]:
        """A session for reading, or the one of the transaction this thread is in."""
        return self._sessions()

    def transaction(self) -> AbstractContextManager[Session]:
        """Everything this thread does inside, by whichever method, commits together or not at all."""
        return self._sessions.transaction()

    @contextmanager
    def _locked(self, name: str) -> Iterator[tuple[Session, ModelKey]]:
        """One transaction in which nobody else changes model `name`; the parent's methods join it."""
        workspace = self._get_active_workspace()
        with self._sessions.transaction() as session:
            yield session, stages.lock_model(session, workspace, name)
            changes = aliases.noted(session)
        aliases.announce(self, name, changes)

    def list_webhooks_by_event(
        self, event: WebhookEvent, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Webhook]:
        """Webhooks that hear of an event; none where the request has changed nothing."""
        # where MLflow keeps the answer, the next event would find none either
        if aliases.is_unannounced() and not MLFLOW_WEBHOOK_CACHE_TTL.get():
            return PagedList([], None)
        return super().list_webhooks_by_event(event, max_results, page_token)

    def _get_sql_model_version(
        self, session: Session, name: str, version: int | str, eager: bool = False
    ) -> Any:
        """The row of a version; MLflow's answer to a number no column holds is a 500."""
        if is_too_large(version):
            raise missing(f"Model Version (name={name}, version={version}) not found")
        return super()._get_sql_model_version(session, name, version, eager)

    def _is_prompt(self, name: str) -> bool:
        with self._sessions() as session:
            tag = session.get(SqlRegisteredModelTag, (self._get_active_workspace(), IS_PROMPT_TAG_KEY, name))
            return tag is not None and str(tag.value) == "true"


def is_too_large(version: int | str) -> bool:
    """Whether it is a number that no version has."""
    digits = str(version).lstrip("0")
    return digits.isdecimal() and (len(digits) > len(str(LARGEST_VERSION)) or int(digits) > LARGEST_VERSION)


def is_prompt_request(tags: Sequence[Any] | None) -> bool:
    """Whether something is created as a prompt, by its tags (the last one of a key counts)."""
    return {tag.key: tag.value for tag in tags or []}.get(IS_PROMPT_TAG_KEY, "").lower() == "true"
