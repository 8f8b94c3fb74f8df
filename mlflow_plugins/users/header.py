"""Client side: the header that names the user of this process, or of a block, so that the audit trail can."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Header in which our own client names its user. Proof of nothing, so it is recorded as a claim, unless a
#: logged-in account sends it that may speak for others (`AI_HUB_DELEGATES`).
HEADER: Final = "X-AI-Hub-User"

_spoken_for: ContextVar[str | None] = ContextVar("spoken_for", default=None)


@contextmanager
def speaking_for(name: str) -> Iterator[None]:
    """Calls in this block, and in this thread or task only, are made for `name` instead of the login name.

    A server with login believes it only of accounts that `AI_HUB_DELEGATES` names.
    """
    token = _spoken_for.set(name)
    try:
        yield
    finally:
        _spoken_for.reset(token)


def user_header() -> dict[str, str]:
    """The header with the user's name; nothing where the process has no user with a name.

    Percent-encoded, because headers carry ASCII only.
    """
    try:
        return {HEADER: quote(_spoken_for.get() or getpass.getuser(), safe="@ ")}
    except (KeyError, OSError):  # no such user in the system, as in many containers
        return {}
