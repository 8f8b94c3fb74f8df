"""Who is asking: the authenticated user, else whom the client claims to be, else honestly unknown."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import unquote

import flask

from mlflow_plugins.settings import RegistrySettings
from mlflow_plugins.users.header import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Header in which a script of ours lets MLflow's pages send the comment of the stage dialog, percent-encoded.
REASON_HEADER: Final = "X-AI-Hub-Reason"
#: Version tags that the next transition consumes: the way to say it in a page that sends no header.
REASON_TAG: Final = "promotion.reason"
ACTOR_TAG: Final = "promotion.user"

#: Where MLflow's auth app leaves the name it has checked.
_MLFLOW_USER: Final = "mlflow_authenticated_user"
_LONGEST: Final = 256

#: Whom our own routes, which are not Flask's, have authenticated.
_user: ContextVar[str | None] = ContextVar("authenticated_user", default=None)
#: What the header of such a request says.
_header: ContextVar[str | None] = ContextVar("user_header", default=None)


class Actor(NamedTuple):
    """A name and how far it can be trusted."""

    name: str
    #: `delegated`: named by an account that may speak for others, which has authenticated it
    source: Literal["authenticated", "delegated", "claimed", "unknown"]


UNKNOWN: Final = Actor("unknown", "unknown")


@contextmanager
def logged_in(name: str, header: str | None = None) -> Iterator[None]:
    """Everything in this block (and the threads it hands its context to) is done by user `name`.

    `header` is what the request's `HEADER` says, as it was sent.
    """
    user, said = _user.set(name), _header.set(header)
    try:
        yield
    finally:
        _user.reset(user)
        _header.reset(said)


def authenticated_user() -> str | None:
    """The user whose password (or whatever MLflow's login was configured to take) has been checked."""
    name = _user.get()
    if name is None and flask.has_request_context():
        name = flask.g.get(_MLFLOW_USER)
    return name


def current_actor(claim: str | None = None) -> Actor:
    """The user of this request; `claim` counts only when nobody is logged in and no header names one.

    Of an account that may speak for others, the header names the user.
    """
    user = authenticated_user()
    said = _header.get()
    if flask.has_request_context():
        said = flask.request.headers.get(HEADER)
    named = (user_of_header(said) or "").strip()
    if user is not None:
        if named and user in delegates():
            return Actor(named[:_LONGEST], "delegated")
        return Actor(user[:_LONGEST], "authenticated")
    claim = named or claim
    return claimed(claim) if claim else UNKNOWN


@lru_cache(maxsize=1)
def delegates() -> frozenset[str]:
    """Accounts of MLflow's login that may speak for others."""
    return frozenset(name.strip() for name in RegistrySettings().ai_hub_delegates.split(",")) - {""}


def reason_of_request() -> str | None:
    """The reason that a request of MLflow's pages gives; None for none."""
    said = flask.request.headers.get(REASON_HEADER) if flask.has_request_context() else None
    return unquote(said) if said else None


def claimed(name: str) -> Actor:
    """Somebody who is only said to be `name`."""
    return Actor(name[:_LONGEST], "claimed")


def user_of_header(value: str | None) -> str | None:
    """The name in the header, which is percent-encoded because headers carry ASCII only."""
    return unquote(value) if value else None
