"""Load on an HTTP server, sent by a process of its own: `python -m benchmarks.service_load < plan.json`.

A stream with a rate sends when its time has come, whatever is still unanswered, and counts from the moment a
request should have left: a stalled server shows in every request it kept waiting. A stream with connections
sends the next request after each answer.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import json
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence  # dataclass fields
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import httptools
import numpy as np

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


#: First line of the process that sends.
STARTED = "begun"


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, sent one after the other, from the first again after the last."""

    name: str
    method: str
    path: str
    bodies: Sequence[str]
    seconds: float
    #: requests a second; or else
    rate: float = 0.0
    #: clients that ask again as soon as they are answered
    connections: int = 0
    #: seconds after which a client gives up
    timeout: float = 30.0
    #: of the first body, the second, …, and from the first again
    headers: Sequence[Mapping[str, str]] = ({},)
    #: pieces of an answer to look for; the outcome tells by bits which were there
    patterns: Sequence[str] = ()


@dataclass
class Outcome:
    """Outcomes of a stream's requests, one entry per request."""

    #: when it should have been sent, in seconds of the machine's monotonic clock
    scheduled: list[float] = field(default_factory=list)
    #: from then until the answer was complete
    seconds: list[float] = field(default_factory=list)
    #: HTTP status; 0: no answer
    status: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    #: of requests without an answer, by how it ended
    failures: dict[str, int] = field(default_factory=dict)
    #: the first body of each status
    samples: dict[str, str] = field(default_factory=dict)

    def percentile(self, percent: float) -> float:
        """Seconds within which `percent` of the requests were answered."""
        return float(np.percentile(self.seconds, percent))

    def count(self, pattern: int) -> int:
        """Number of answers that contained the pattern of this number."""
        return sum(bits >> pattern & 1 for bits in self.matches)

    def statuses(self) -> dict[int, int]:
        """Number of answers by status."""
        values, counts = np.unique(self.status, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


class Load:
    """Load that runs in a process of its own."""

    def __init__(self, port: int, streams: Sequence[Stream]) -> None:
        with tempfile.TemporaryFile("w+") as plan:
            json.dump({"port": port, "streams": [asdict(stream) for stream in streams]}, plan)
            plan.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.service_load"],
                stdin=plan,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        # so that whoever has it knows that requests leave from now on
        if self._process.stdout is None or self._process.stdout.readline().strip() != STARTED:
            raise RuntimeError("the load did not begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop sending streams with a rate; pending requests are awaited."""
        self._process.terminate()

    def outcomes(self) -> dict[str, Outcome]:
        """Outcomes by stream, once all requests are answered."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        return {name: Outcome(**fields) for name, fields in json.loads(out).items()}


def run(port: int, *streams: Stream) -> dict[str, Outcome]:
    """Send all streams at once and wait for their end."""
    with Load(port, streams) as load:
        return load.outcomes()


_HOST = "127.0.0.1"


class _NoAnswerError(Exception):
    pass


class _Connection(asyncio.Protocol):
    """One request at a time over a kept connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(_NoAnswerError("cut" if exc is None else type(exc).__name__))

    # the parser calls these
    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if not self._parser.should_keep_alive():
            self.close()
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer and not self._answer.done():
            self._answer.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self._transport is None:
            raise _NoAnswerError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.open = False
        if self._transport:
            self._transport.abort()


class _Sender:
    def __init__(self, port: int, plan: dict[str, Any], stopping: asyncio.Event) -> None:
        self._port = port
        self._stopping = stopping
        self._plan = plan
        self._requests = itertools.cycle(list(_requests(plan)))
        self._patterns = [pattern.encode() for pattern in plan["patterns"]]
        self._idle: list[_Connection] = []
        self.outcome = Outcome()

    async def run(self) -> None:
        """Send the stream."""
        started, seconds = time.monotonic(), self._plan["seconds"]
        if self._plan["connections"]:
            await asyncio.gather(*(self._again(started + seconds) for _ in range(self._plan["connections"])))
            return
        loop, pending, period = asyncio.get_running_loop(), set(), 1 / self._plan["rate"]
        for number in range(round(self._plan["rate"] * seconds)):
            if self._stopping.is_set():
                break
            scheduled = started + number * period
            if (wait := scheduled - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = loop.create_task(self._one(scheduled))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)

    async def _again(self, end: float) -> None:
        while (now := time.monotonic()) < end:
            await self._one(now)

    async def _one(self, scheduled: float) -> None:
        status, body = 0, b""
        try:
            async with asyncio.timeout(self._plan["timeout"]):
                status, body = await self._ask(next(self._requests))
        except (OSError, _NoAnswerError) as error:
            self._failed(error)
        outcome = self.outcome
        outcome.scheduled.append(scheduled)
        outcome.seconds.append(time.monotonic() - scheduled)
        outcome.status.append(status)
        outcome.matches.append(
            sum((pattern in body) << number for number, pattern in enumerate(self._patterns))
        )
        if str(status) not in outcome.samples:
            outcome.samples[str(status)] = body.decode(errors="replace")[:1000]

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        while self._idle and not self._idle[-1].open:
            self._idle.pop()
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, _HOST, self._port)
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if connection.open:
            self._idle.append(connection)
        return answer

    def _failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            name = "no answer in time"
        elif isinstance(error, ConnectionRefusedError):
            name = "refused"
        elif isinstance(error, OSError):
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        else:
            name = str(error)
        self.outcome.failures[name] = self.outcome.failures.get(name, 0) + 1


def _requests(plan: dict[str, Any]) -> Iterator[bytes]:
    for body, extra_headers in zip(plan["bodies"], itertools.cycle(plan["headers"])):  # the second never ends
        headers = {"host": _HOST, "content-type": "application/json", **extra_headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        content = body.encode()
        head = f"{plan['method']} {plan['path']} HTTP/1.1\r\n{lines}content-length: {len(content)}\r\n\r\n"
        yield head.encode() + content


async def _send(plan: dict[str, Any]) -> dict[str, Any]:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print(STARTED, flush=True)
    senders = {stream["name"]: _Sender(plan["port"], stream, stopping) for stream in plan["streams"]}
    await asyncio.gather(*(sender.run() for sender in senders.values()))
    return {name: asdict(sender.outcome) for name, sender in senders.items()}


def main() -> None:
    """Send the plan of standard input."""
    plan = json.load(sys.stdin)
    gc.collect()
    gc.freeze()
    gc.disable()
    # epoll waits in whole milliseconds, which would make each request late
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    json.dump(loop.run_until_complete(_send(plan)), sys.stdout)


if __name__ == "__main__":
    main()
