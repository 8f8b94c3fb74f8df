"""Valkey servers of a test's own: one alone, a cluster, and one that a sentinel watches."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import redis

from ai_hub.dev.redis_server import server_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "127.0.0.1"
_START_S = 120
_SLOTS = 16_384


@contextmanager
def server(folder: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """Port of a server that keeps nothing on disk."""
    port = port or free_port()
    base = folder / str(port)
    base.mkdir(exist_ok=True)
    command = [str(server_program()), "--port", str(port), "--bind", HOST, "--dir", str(base), "--save", ""]
    with _running([*command, *options], base):
        until(lambda: _answers(port))
        yield port


@contextmanager
def cluster(folder: Path, nodes: int = 3) -> Iterator[list[int]]:
    """Ports of the masters of a cluster that has all its slots."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with ExitStack() as stack:
        ports = [stack.enter_context(server(folder, *options)) for _ in range(nodes)]
        clients = [redis.Redis(HOST, port) for port in ports]
        for number, client in enumerate(clients):
            first, end = (_SLOTS * at // nodes for at in (number, number + 1))
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            clients[0].execute_command("CLUSTER MEET", HOST, ports[number])
        until(lambda: all(_is_whole(client, nodes) for client in clients))
        yield ports


@contextmanager
def sentinel(folder: Path, name: str) -> Iterator[tuple[int, int, int]]:
    """Ports of a sentinel, of the master that it calls `name`, and of its replica."""
    with ExitStack() as stack:
        master = stack.enter_context(server(folder))
        replica = stack.enter_context(server(folder, "--replicaof", HOST, str(master)))
        port = free_port()
        base = folder / str(port)
        base.mkdir()
        lines = [f"port {port}", f"bind {HOST}", f"sentinel monitor {name} {HOST} {master} 1"]
        (base / "sentinel.conf").write_text("\n".join(lines) + "\n")
        program = [str(server_program()), str(base / "sentinel.conf"), "--sentinel"]
        stack.enter_context(_running(program, base))
        until(lambda: _answers(port))
        watch = redis.Redis(HOST, port)
        until(lambda: watch.sentinel_master(name)["num-slaves"] == 1)
        yield port, master, replica


def free_port() -> int:
    """A port that nothing listens on; small enough for the bus of a cluster above it."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with redis.Redis(HOST, port) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _is_whole(client: redis.Redis, nodes: int) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(nodes)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + _START_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)
