"""A TCP proxy on this machine that can cut, stall and refuse connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from benchmarks.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator


_CHUNK = 1 << 16
#: SO_LINGER on, zero seconds: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards bytes to a port of this machine. Faults are thread-safe."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        #: connections that clients have made
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def reset(self) -> int:
        """Reset every connection, as a firewall that lost its state; returns their number."""
        return self._call(self._reset)

    def stall(self) -> None:
        """Keep connections open and forward nothing, as a network that loses every packet."""
        self._call(self._flowing.clear)

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        """Forward everything again."""
        self._refusing = False
        self._call(self._flowing.set)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Reset every connection and end."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._flowing.set()
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _call(self, work: object) -> int:
        async def run() -> int:
            return int(work() or 0)  # type: ignore[operator]  # a function without arguments

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            self._abort(writer)
            return
        try:
            onward_reader, onward = await asyncio.open_connection(HOST, self.target)
        except OSError:
            self._abort(writer)
            return
        writers = {writer, onward}
        self._writers |= writers
        try:
            await asyncio.gather(self._pass(reader, onward), self._pass(onward_reader, writer))
        finally:
            self._writers -= writers
            for open_writer in writers:
                self._abort(open_writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    def _reset(self) -> int:
        writers = list(self._writers)
        for writer in writers:
            self._abort(writer)
        return len(writers) // 2

    @staticmethod
    def _abort(writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, AttributeError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    """A proxy in front of a port of this machine."""
    proxy = Proxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
