"""MLflow's aliases of stages: what its dialog means by its requests, and the webhooks of aliases that follow.

The dialog sends a request for each chip that was added and each that was removed, all at once. So the removal
of a stage's alias may arrive before the move that takes it from the version, and two stages may be asked for
at the same time.

MLflow has no event for a change of stage, and announces an alias only where a person sets it by hand. As
`production` and `staging` mirror the stages, their webhooks are those of promotions, whichever door was used.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

import flask
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks.delivery import deliver_webhook
from mlflow.webhooks.types import ModelVersionAliasCreatedPayload, ModelVersionAliasDeletedPayload

from mlflow_plugins.errors import conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow.store.model_registry.abstract_store import AbstractStore
    from sqlalchemy.orm import Session


#: A removal waits so long for a move to begin, and then until it has ended.
GRACE_S: Final = 1.0
_LOOK_S: Final = 0.1


class Version(NamedTuple):
    """A version that is moved by an alias."""

    workspace: str
    model: str
    version: int


_moves: list[tuple[Version, str]] = []
_ended = threading.Condition()


def version_of_request() -> int | None:
    """The version that a request to remove an alias names: the dialog's do, the API has no such field."""
    if not flask.has_request_context():
        return None
    body = flask.request.get_json(silent=True)
    with suppress(TypeError, ValueError):
        return int(body.get("version", "")) if isinstance(body, dict) else None
    return None


@contextmanager
def moving(version: Version, stage: str) -> Iterator[None]:
    """Let nobody else move the version by an alias to another stage meanwhile (in this process).

    Raises:
        MlflowException: 409, somebody is moving it.
    """
    with _ended:
        for moved, other in _moves:
            if moved == version and other != stage:
                raise conflict(
                    f"Version {version.version} of model {version.model} was asked into {other} and into "
                    f"{stage} at once. A version is in one stage: {other} was asked for first. Load the "
                    f"page again to see where it is now."
                )
        _moves.append((version, stage))
    try:
        yield
    finally:
        with _ended:
            _moves.remove((version, stage))
            _ended.notify_all()


def comes_true(version: Version, is_removed: Callable[[], bool]) -> bool:
    """Whether an alias is gone from the version, now or by the move that the dialog asked for beside it."""
    deadline = time.monotonic() + GRACE_S
    while not is_removed():
        with _ended:
            if time.monotonic() > deadline and all(moved != version for moved, _ in _moves):
                return False
            _ended.wait(_LOOK_S)
    return True


_CHANGES: Final = "lifecycle_alias_changes"
_SET: Final = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
_REMOVED: Final = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.DELETED)
_set_by_hand: ContextVar[str | None] = ContextVar("_set_by_hand", default=None)


class AliasChange(NamedTuple):
    """An alias and the version it points at now; None when it is gone."""

    alias: str
    version: int | None


def note(session: Session, change: AliasChange) -> None:
    """Remember a change of this transaction."""
    session.info.setdefault(_CHANGES, []).append(change)


def noted(session: Session) -> list[AliasChange]:
    """What the transaction changed so far."""
    return list(session.info.get(_CHANGES, []))


@contextmanager
def announced_by_handler(alias: str) -> Iterator[None]:
    """MLflow's own handler announces that `alias` was set, so `announce` leaves it out."""
    token = _set_by_hand.set(alias if flask.has_request_context() else None)
    try:
        yield
    finally:
        _set_by_hand.reset(token)


def leave_unannounced() -> None:
    """This request has changed nothing: MLflow's handler, which announces all the same, finds no webhooks."""
    if flask.has_request_context():
        flask.g.ai_hub_unannounced = True


def is_unannounced() -> bool:
    """Whether this request has said that it changed nothing."""
    return flask.has_request_context() and "ai_hub_unannounced" in flask.g


def announce(store: AbstractStore, model: str, changes: list[AliasChange]) -> None:
    """Send the events of committed changes to the webhooks of the active workspace; never fails."""
    for alias, version in changes:
        if version is None:
            gone = ModelVersionAliasDeletedPayload(name=model, alias=alias)
            deliver_webhook(event=_REMOVED, payload=gone, store=store)
        elif alias != _set_by_hand.get():
            created = ModelVersionAliasCreatedPayload(name=model, alias=alias, version=str(version))
            deliver_webhook(event=_SET, payload=created, store=store)
