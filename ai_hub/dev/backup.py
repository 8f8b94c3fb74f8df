"""What a backup asks of the embedded servers."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ai_hub import paths
from ai_hub.dev import record
from ai_hub.dev.control import down, recorded_handle, up
from ai_hub.dev.services import SERVICES, outside_address, select

if TYPE_CHECKING:
    from collections.abc import Iterator


class RecordedServers:
    """The servers of the state folder, as `ai_hub.backup.embedded.EmbeddedServers`."""

    def includes(self, service: str) -> bool:
        """Whether the service is recorded, and not replaced by an outside server."""
        stack = record.load()
        return service in stack.services and outside_address(SERVICES[service], stack) is None

    def is_running(self, service: str) -> bool:
        """Whether the service is one of them, and runs."""
        return self.includes(service) and recorded_handle(record.load(), SERVICES[service]) is not None

    @contextmanager
    def stopped(self, *services: str) -> Iterator[None]:
        """In this block these services are stopped; afterwards they work again."""
        if not services:
            yield
            return
        chosen = select(list(services))
        down(chosen, purge=False, on_wait=lambda: None)
        try:
            with ExitStack() as locks:
                for name in services:
                    # its threads may release the folder a moment after it has ended
                    lock = locks.enter_context((paths.state_dir() / name / "lock").open("ab"))
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        finally:
            up(chosen, lambda *_, **__: None)
