"""CPU of one worker for a request for features of one asset, beside the same work over bare protocols.

    python -m benchmarks.hot_path [--server embedded|native] [--copies N] [--turns N]

Clients in a closed loop ask for assets at random: those of the two tenants have `--copies` copies each in
Redis, so that nothing that is kept in memory has them all. The bare server parses HTTP, makes the key, reads
one hash of the same Redis, decodes its numbers and writes them as JSON: no key of a caller, no limits, no
checks, no log, no metrics. CPU time of the two in turns can be compared on a machine that does other work.

It must begin and end within an hour: rows of the hour before are looked for once more with each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis
import httptools
import orjson
import psutil
import redis
import uvloop

from benchmarks import http_load, servers, service_load, service_site
from benchmarks.servers import HOST, valkey
from benchmarks.service import PATH, SEED
from benchmarks.service_load import Stream
from benchmarks.service_site import TENANTS, Service, Site
from feast_plugins.online import encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ASSETS = 100
_DAYS = 8
_SECONDS = 4.0
_CONNECTIONS = (4, 32)
#: Requests of a stream, after which it starts anew; their assets are drawn from all.
_BODIES = 20_000
_BATCH = 1000
#: Numbers of an answer.
_FIELDS = 6
_PREFIX = encoding.prefix(["asset_id", "tenant_id"])
_PATTERNS = ('"source":"redis"',)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__)
    parser.add_argument("--server", choices=servers.available(), help="where TimescaleDB runs")
    parser.add_argument("--copies", type=int, default=1000, help="of each of the 100 assets (default: 1000)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bare", nargs=2, type=int, metavar=("PORT", "REDIS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        uvloop.run(_serve(*arguments.bare))
        return
    servers.clean_up_when_terminated()
    server = arguments.server or servers.available()[-1]
    with (
        servers.databases(server, ("hot_path",)) as databases,
        valkey() as keys,
        tempfile.TemporaryDirectory(prefix="hot-path-") as name,
    ):
        url = f"redis://{HOST}:{keys.port}/0"
        site = Site(Path(name), {"TIMESCALE_DSN": databases["hot_path"].dsn, "REDIS_URL": url})
        site.fill(_ASSETS, _DAYS)
        site.apply()
        with redis.Redis(port=keys.port) as client:
            names = _copy(client, arguments.copies)
        headers = [{"x-api-key": site.key(tenant)} for tenant in TENANTS]
        with _serving(site, keys.port) as processes:
            for connections in _CONNECTIONS:
                _measure(processes, _stream(names, headers, connections), arguments.turns)


def _copy(client: redis.Redis, copies: int) -> list[str]:
    """Copy the row of each asset; the names of the copies."""
    names: dict[str, None] = {}
    for key in list(client.scan_iter()):
        try:
            values, project = encoding.take_apart(key)
        except encoding.NotOurKeyError:
            continue
        if list(values) != ["asset_id", "tenant_id"]:
            continue
        fields = client.hgetall(key)
        pipe = client.pipeline(transaction=False)
        for number in range(copies):
            name = b"%b-%06d" % (values["asset_id"], number)
            names[name.decode()] = None
            pipe.hset(_key(name, values["tenant_id"], project.encode()), mapping=fields)  # type: ignore[arg-type]  # not async
            if len(pipe) >= _BATCH:
                pipe.execute()
        pipe.execute()
    return list(names)


def _key(asset: bytes, tenant: bytes, project: bytes) -> bytes:
    return b"".join([_PREFIX, *encoding.string_parts([asset, tenant]), project])


def _stream(names: list[str], headers: list[dict[str, str]], connections: int) -> Stream:
    """Requests of the tenants in turns, as their keys are in `headers`."""
    rng = random.Random(SEED)  # noqa: S311  # no secret
    bodies = [
        json.dumps({"tenant_id": TENANTS[number % len(TENANTS)], "asset_id": rng.choice(names)})
        for number in range(_BODIES)
    ]
    return Stream(
        "hot path",
        "POST",
        PATH,
        bodies,
        _SECONDS,
        connections=connections,
        headers=headers,
        patterns=_PATTERNS,
    )


@contextmanager
def _serving(site: Site, redis_port: int) -> Iterator[dict[str, tuple[int, psutil.Process]]]:
    """Port and process of the service and of the bare server."""
    service = Service(site, {"AI_HUB_API_RATE_LIMIT_PER_S": "1000000"})

    def command(_: Path, port: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.hot_path", "--bare", str(port), str(redis_port)]

    with service_site.running(service), http_load.served(command, site.folder) as port:
        if service.process is None:
            raise RuntimeError("the service does not run")
        bare = next(each for each in psutil.Process().children() if "--bare" in each.cmdline())
        yield {"service": (service.port, psutil.Process(service.process.pid)), "bare": (port, bare)}


def _measure(processes: dict[str, tuple[int, psutil.Process]], stream: Stream, turns: int) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in processes}
    for turn in range(turns):
        for name in list(processes)[:: -1 if turn % 2 else 1]:
            port, process = processes[name]
            before = sum(process.cpu_times()[:2])
            outcome = service_load.run(port, stream)[stream.name]
            cpu_s = sum(process.cpu_times()[:2]) - before
            count = len(outcome.seconds)
            if outcome.count(0) < count:
                raise RuntimeError(f"{name}: {outcome.statuses()}, {outcome.failures}, {outcome.samples}")
            found[name].append((cpu_s / count * 1e6, count / stream.seconds, outcome.percentile(99) * 1e3))
    for name, runs in found.items():
        cpu, rate, p99 = map(statistics.median, zip(*runs, strict=True))
        figures = f"{cpu:6.1f} us of CPU a request, {rate:7,.0f}/s, p99 {p99:.2f} ms"
        print(f"{stream.connections:3} clients, {name:8}: {figures}", flush=True)


class _Redis(asyncio.Protocol):
    """Calls back with each reply."""

    def __init__(self) -> None:
        self._callbacks: deque[Callable[[list[Any]], None]] = deque()
        self._reader = hiredis.Reader()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, command: bytes, callback: Callable[[list[Any]], None]) -> None:
        self._callbacks.append(callback)
        self._transport.write(command)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._callbacks.popleft()(reply)


class _Bare(asyncio.Protocol):
    """Answers one request at a time."""

    def __init__(self, row: _Redis, project: bytes, fields: list[bytes]) -> None:
        self._redis = row
        self._project = project
        self._command = b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in fields])
        self._head = b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(fields))
        self._names = [f"feature_name_{number}" for number in range(len(fields))]
        self._status = dict.fromkeys(self._names, "PRESENT")
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._asked: dict[str, str] = {}
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._asked, self._body = orjson.loads(self._body), b""
        if not self._asked:  # whether it runs
            self._respond(b"{}")
            return
        key = _key(self._asked["asset_id"].encode(), self._asked["tenant_id"].encode(), self._project)
        self._redis.send(b"%b%d\r\n%b\r\n%b" % (self._head, len(key), key, self._command), self._answer)

    def _answer(self, reply: list[Any]) -> None:
        values = encoding.doubles([[cell or b"" for cell in reply]])
        if values is None:
            raise ValueError(reply)
        features = dict(zip(self._names, values[0], strict=True))
        body = self._asked | {"features": features, "status": self._status, "source": "redis"}
        self._respond(orjson.dumps(body))

    def _respond(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def _serve(port: int, redis_port: int) -> None:
    with redis.Redis(port=redis_port) as client:
        for key in client.scan_iter(b"*asset_id*-000000*"):
            _, project = encoding.take_apart(key)
            row = client.hgetall(key)
            break
        else:
            raise RuntimeError("there are no rows")
    number = b"\x29"
    fields = [name for name, value in row.items() if value.startswith(number)][:_FIELDS]  # type: ignore[union-attr]  # not async
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Redis, HOST, redis_port)
    server = await loop.create_server(lambda: _Bare(connection, project.encode(), fields), HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    main()
