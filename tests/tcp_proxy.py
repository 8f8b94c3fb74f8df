"""A TCP proxy that a test can make slow, silent or deaf: what a client sees of a server in trouble."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZE = 65_536


class Proxy:
    """Passes bytes on between its port and a server."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: connections that were accepted
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Pass nothing on; connections stay open, new ones are accepted."""
        self._flows.clear()

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        self._refuses = True
        self._close()

    def heal(self) -> None:
        """Work again."""
        self._refuses = False
        self._flows.set()

    def close(self) -> None:
        """Stop for good."""
        self._flows.set()
        self._listener.close()
        self._close()

    def _close(self) -> None:
        while self._open:
            each = self._open.pop()
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_SIZE):
                self._flows.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(host: str, port: int) -> Iterator[Proxy]:
    """A proxy for the block."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
