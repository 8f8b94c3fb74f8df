"""How far the follower has come, noted in Redis: until then the last hour's rows have no successors there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from redis import Redis

#: A follower that says nothing for so many seconds is not waited for.
ALIVE_S: Final = 600
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def followed_key(project: str) -> bytes:
    """Key of the note; its value is the start of the hour in seconds since 1970."""
    return f"ai_hub:followed:{project}".encode()


def note_followed(client: Redis, project: str, time: datetime) -> None:
    """All rows of hours that had begun at `time` are in Redis, as far as there are any."""
    seconds = round((time - _EPOCH).total_seconds())
    client.set(followed_key(project), seconds - seconds % 3600, ex=ALIVE_S)
