"""Notes in Redis beside the rows: how far the follower has come, and which rows have nothing newer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ai_hub.times import EPOCH

if TYPE_CHECKING:
    from datetime import datetime

    from redis import Redis

#: A follower that says nothing for so many seconds is not waited for.
ALIVE_S: Final = 600


def followed_key(project: str) -> bytes:
    """Key of the note how far; until then the last hour's rows have no successors. Seconds since 1970."""
    return f"ai_hub:followed:{project}".encode()


def note_followed(client: Redis, project: str, time: datetime) -> None:
    """All rows of hours that had begun at `time` are in Redis, as far as there are any."""
    seconds = round((time - EPOCH).total_seconds())
    client.set(followed_key(project), seconds - seconds % 3600, ex=ALIVE_S)


def mark_key(project: str, stamp_field: str, tenant: str, asset: str) -> bytes:
    """Key of the note about an asset's row; neither tenants nor views have a `:` in their names."""
    return f"ai_hub:looked:{project}:{stamp_field}:{tenant}:{asset}".encode()


def mark_pattern(project: str, tenant: str) -> bytes:
    """Pattern for SCAN of the notes about all of a tenant's rows."""
    return f"ai_hub:looked:{project}:_ts:*:{tenant}:*".encode()
