"""MLflow's alias webhooks for aliases that follow a stage.

MLflow has no event for a change of stage, and announces an alias only where a person sets it by hand. As
`production` and `staging` mirror the stages, their events are those of promotions, whichever door was used.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

import flask
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks.delivery import deliver_webhook
from mlflow.webhooks.types import ModelVersionAliasCreatedPayload, ModelVersionAliasDeletedPayload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.store.model_registry.abstract_store import AbstractStore
    from sqlalchemy.orm import Session

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
