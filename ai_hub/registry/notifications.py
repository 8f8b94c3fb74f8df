"""Who hears of promotions, and what has not arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ai_hub.registry.server import call, connect

_PATH: Final = "/ai-hub/api/notifications"


@dataclass(frozen=True)
class Receiver:
    """A receiver by its label, with how many messages wait or were given up, and the last error."""

    receiver: str
    tenant: str | None
    kinds: list[str]
    #: off for one that is in no setting any more
    is_set: bool
    waiting: int
    failed: int
    error: str | None


def receivers(*, test: bool = False) -> list[Receiver]:
    """The receivers of the server; `test` sends each a message first.

    Raises:
        ForbiddenError: only the administrator may.
    """
    connect()
    answer = call("POST", f"{_PATH}/test") if test else call("GET", _PATH)
    return [Receiver(**row) for row in answer["receivers"]]
