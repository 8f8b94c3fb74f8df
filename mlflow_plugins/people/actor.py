"""Who is asking: the authenticated user, else whom the client claims to be, else honestly unknown."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

import flask

#: Header in which our own client names its user; proof of nothing, so it is recorded as a claim.
HEADER: Final = "X-AI-Hub-User"
#: Version tags that the next transition consumes: the way to say it in a page that sends no header.
REASON_TAG: Final = "promotion.reason"
ACTOR_TAG: Final = "promotion.user"

_AUTH_MODULE: Final = "mlflow.server.auth"
_LONGEST: Final = 256


class Actor(NamedTuple):
    """A name and how far it can be trusted."""

    name: str
    source: Literal["authenticated", "claimed", "unknown"]


UNKNOWN: Final = Actor("unknown", "unknown")


def current_actor(claim: str | None = None) -> Actor:
    """The user of this request; `claim` counts only when the request itself names nobody."""
    if flask.has_request_context():
        login = flask.request.authorization
        # Without MLflow's auth app nobody checked the Authorization header, so it proves nothing.
        if login is not None and login.username and _auth_is_on():
            return Actor(login.username[:_LONGEST], "authenticated")
        claim = user_of_header(flask.request.headers.get(HEADER)) or claim
    return claimed(claim) if claim else UNKNOWN


def claimed(name: str) -> Actor:
    """Somebody who is only said to be `name`."""
    return Actor(name[:_LONGEST], "claimed")


def user_of_header(value: str | None) -> str | None:
    """The name in the header, which is percent-encoded because headers carry ASCII only."""
    return unquote(value) if value else None


def _auth_is_on() -> bool:
    checks = flask.current_app.before_request_funcs.get(None, [])
    return any(check.__module__ == _AUTH_MODULE for check in checks)
