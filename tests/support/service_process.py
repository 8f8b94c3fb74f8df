"""`ai-hub serve` as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLI = str(Path(sys.executable).with_name("ai-hub"))
_START_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    environment: Mapping[str, str], *arguments: str, log: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Address and process of a service with these settings; its output is appended to `log`."""
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [CLI, "serve", f"--port={port}", *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_live(address, process)
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def wait_until_live(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            httpx.get(f"{address}/health/live", timeout=5).raise_for_status()
        except httpx.TransportError:
            assert process.poll() is None, "the service ended before it answered"
            assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(0.05)
        else:
            return
