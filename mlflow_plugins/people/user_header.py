"""Client side: name the user of this process, or of a block, to the server, so that the audit trail can."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider

from mlflow_plugins.people.actor import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class UserHeaderProvider(RequestHeaderProvider):
    """Sends the login name with every request; a claim, as in MLflow's own `mlflow.user` tag."""

    def in_context(self) -> bool:
        """Whether the process has a user with a name."""
        return bool(self.request_headers())

    def request_headers(self) -> dict[str, str]:
        """The header; percent-encoded, because headers carry ASCII only."""
        try:
            return {HEADER: quote(_spoken_for.get() or getpass.getuser(), safe="@ ")}
        except (KeyError, OSError):  # no such user in the system, as in many containers
            return {}
