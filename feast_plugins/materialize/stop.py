"""Tells materializations in other threads to end."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from adbc_driver_manager import dbapi

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stop:
    """A flag, and the queries that are cancelled when it is set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connections: set[dbapi.Connection] = set()

    def set(self) -> None:
        """End every run before its next batch, and its query at once."""
        self._event.set()
        for connection in list(self._connections):
            _cancel(connection)

    def is_set(self) -> bool:
        """Whether runs are to end."""
        return self._event.is_set()

    @contextmanager
    def cancels(self, connection: dbapi.Connection) -> Iterator[None]:
        """Let a query of `connection` not outlive the flag, nor a failure of the block."""
        self._connections.add(connection)
        try:
            yield
        except BaseException:
            _cancel(connection)
            raise
        finally:
            self._connections.discard(connection)


def _cancel(connection: dbapi.Connection) -> None:
    with suppress(dbapi.Error):  # nothing ran any more
        connection.adbc_cancel()
