"""Who is asking: the authenticated user, else whom the client claims to be, else honestly unknown."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import unquote

import flask

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Header in which our own client names its user; proof of nothing, so it is recorded as a claim.
HEADER: Final = "X-AI-Hub-User"
#: Version tags that the next transition consumes: the way to say it in a page that sends no header.
REASON_TAG: Final = "promotion.reason"
ACTOR_TAG: Final = "promotion.user"

#: Where MLflow's auth app leaves the name it has checked.
_MLFLOW_USER: Final = "mlflow_authenticated_user"
_LONGEST: Final = 256

#: Whom our own routes, which are not Flask's, have authenticated.
_user: ContextVar[str | None] = ContextVar("authenticated_user", default=None)


class Actor(NamedTuple):
    """A name and how far it can be trusted."""

    name: str
    source: Literal["authenticated", "claimed", "unknown"]


UNKNOWN: Final = Actor("unknown", "unknown")


@contextmanager
def logged_in(name: str) -> Iterator[None]:
    """Everything in this block (and the threads it hands its context to) is done by user `name`."""
    token = _user.set(name)
    try:
        yield
    finally:
        _user.reset(token)


def authenticated_user() -> str | None:
    """The user whose password (or whatever MLflow's login was configured to take) has been checked."""
    name = _user.get()
    if name is None and flask.has_request_context():
        name = flask.g.get(_MLFLOW_USER)
    return name


def current_actor(claim: str | None = None) -> Actor:
    """The user of this request; `claim` counts only when nobody is logged in and no header names one."""
    user = authenticated_user()
    if user is not None:
        return Actor(user[:_LONGEST], "authenticated")
    if flask.has_request_context():
        claim = user_of_header(flask.request.headers.get(HEADER)) or claim
    return claimed(claim) if claim else UNKNOWN


def claimed(name: str) -> Actor:
    """Somebody who is only said to be `name`."""
    return Actor(name[:_LONGEST], "claimed")


def user_of_header(value: str | None) -> str | None:
    """The name in the header, which is percent-encoded because headers carry ASCII only."""
    return unquote(value) if value else None
