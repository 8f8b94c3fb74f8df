"""HTTP servers to measure, and clients that keep them busy."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.servers import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = "/get-online-features"
_HEADERS = {"Content-Type": "application/json"}
_START_S = 90
_STOP_S = 15

#: What HTTP alone costs: the same web server, and always the same bytes.
_FLOOR = """
import pathlib, sys
import uvicorn
answer = pathlib.Path(sys.argv[1], "answer.json").read_bytes()
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", lifespan="off")
"""


def stock_command(folder: Path, port: int) -> list[str]:
    """`feast serve`; by default its process is replaced after a thousand requests, which is not measured."""
    feast = str(Path(sys.executable).with_name("feast"))
    options = ["--port", str(port), "--no-access-log", "--max-requests", "0"]
    return [feast, "-c", str(folder), "serve", *options]


def our_command(folder: Path, port: int) -> list[str]:
    """Our server on the same repository."""
    return [sys.executable, "-m", "feast_plugins.feature_server", "--port", str(port), str(folder)]


def floor_command(folder: Path, port: int) -> list[str]:
    """A server with one answer, `answer.json`."""
    return [sys.executable, "-c", _FLOOR, str(folder), str(port)]


@contextmanager
def served(command: Callable[[Path, int], list[str]], folder: Path) -> Iterator[int]:
    """Port of a server of the repository in `folder`; stopped at the end."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command(folder, port), stdout=log, stderr=log)
    try:
        _await(process, port, folder / "server.log")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=_START_S)
            connection.request("POST", PATH, b"{}", _HEADERS)
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


def ask(port: int, content: bytes) -> bytes:
    """Answer to one request."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    return _ask(connection, content)


def latencies(port: int, content: bytes, *, connections: int, seconds: float) -> list[float]:
    """Seconds of each request of `connections` clients in closed loops, each with a connection of its own."""
    by_connection: list[list[float]] = [[] for _ in range(connections)]
    end = time.monotonic() + seconds

    def run(times: list[float]) -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=60)
        while time.monotonic() < end:
            started = time.perf_counter()
            _ask(connection, content)
            times.append(time.perf_counter() - started)

    threads = [threading.Thread(target=run, args=(times,)) for times in by_connection]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [seconds_of_request for times in by_connection for seconds_of_request in times]


def _ask(connection: http.client.HTTPConnection, content: bytes) -> bytes:
    connection.request("POST", PATH, content, _HEADERS)
    response = connection.getresponse()
    answer = response.read()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{response.status}: {answer.decode()}")
    return answer
