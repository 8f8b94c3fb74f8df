"""How far a materialization came, kept in the Redis that it fills.

A Redis that loses its rows loses this, too. In a cluster the two may be on different nodes, so there a run
that was killed is repeated from its start.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from datetime import datetime

from feast_plugins.materialize.channel import Channel
from feast_plugins.materialize.latest import Done


@dataclass
class Checkpoint:
    """Of one feature view."""

    channel: Channel
    project: str
    view: str
    #: of the plan; what another plan wrote does not count
    identity: str
    #: how long the rows of this run may be relied on
    seconds: float
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def _key(self) -> bytes:
        return key_of(self.project, self.view)

    def load(self, start: datetime) -> Done | None:
        """What an earlier run has done of a run that starts at `start`; None: nothing to rely on."""
        left_ms = int(self.channel.ask(b"PTTL", self._key) or 0)
        text = self.channel.ask(b"GET", self._key)
        if not isinstance(text, bytes) or left_ms <= 0:
            return None
        kept = json.loads(text)
        if kept["identity"] != self.identity or datetime.fromisoformat(kept["start"]) > start:
            return None
        # rows of the earlier run are as old as that
        self._until = min(self._until, time.monotonic() + left_ms / 1000)
        return Done(
            kept["last"], datetime.fromisoformat(kept["end"]), datetime.fromisoformat(kept["read_at"])
        )

    def save(self, start: datetime, done: Done) -> None:
        """Keep what is done for as long as it can be relied on."""
        left_ms = int((self._until - time.monotonic()) * 1000)
        if left_ms <= 0:
            self.clear()
            return
        kept = {
            "identity": self.identity,
            "start": start.isoformat(),
            "last": done.last,
            "end": done.end.isoformat(),
            "read_at": done.read_at.isoformat(),
        }
        self.channel.ask(b"SET", self._key, json.dumps(kept).encode(), b"PX", b"%d" % left_ms)

    def clear(self) -> None:
        """Forget it: nothing is left to be resumed."""
        self.channel.ask(b"DEL", self._key)


def key_of(project: str, view: str) -> bytes:
    """Redis key of a view's checkpoint."""
    return b"feast_plugins:materialize:" + hashlib.sha256(json.dumps([project, view]).encode()).digest()
