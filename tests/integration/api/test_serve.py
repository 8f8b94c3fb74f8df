"""`ai-hub serve` as people run it: one process or several, with and without the servers it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from support.service_process import CLI, free_port, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def nowhere() -> dict[str, str]:
    """Settings that lead to servers which are all down."""
    port = free_port()
    return {
        "TIMESCALE_DSN": f"postgresql://nobody:hush@127.0.0.1:{port}/none",
        "REDIS_URL": f"redis://:hush@127.0.0.1:{port}/0",
        "MINIO_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MINIO_ACCESS_KEY": "key",
        "MINIO_SECRET_KEY": "hush",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "FEAST_REGISTRY_URI": f"postgresql+psycopg://nobody:hush@127.0.0.1:{port}/none",
    }


def test_serve__every_server_down__lives_says_so_and_leaks_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(nowhere(), "--no-export-worker", log=log) as (address, process):
        ready = httpx.get(f"{address}/health/ready", timeout=20)
        assert ready.status_code == 503
        body = ready.json()
        assert body["status"] == "unavailable"
        assert {name: each["status"] for name, each in body["dependencies"].items()} == dict.fromkeys(
            ("timescaledb", "redis", "feast_registry", "s3", "mlflow"), "down"
        )
        started = time.monotonic()
        asked = httpx.post(f"{address}/ai/features/get", headers={"X-API-Key": "hush-hush"}, timeout=20)
        assert asked.status_code in {401, 503}
        assert time.monotonic() - started < 5
        process.terminate()
        assert process.wait(20) == 0
    lines = log.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    down = [found for line in lines if (found := json.loads(line)).get("event") == "dependency.failed"]
    assert {each["dependency"] for each in down} == {
        *("timescaledb", "redis", "feast_registry", "s3", "mlflow")
    }
    assert all(each["reason"] for each in down)
    assert "hush" not in log.read_text() + ready.text + asked.text


def test_serve__without_authentication__stays_on_this_machine() -> None:
    done = subprocess.run(
        [CLI, "serve", "--host=0.0.0.0", f"--port={free_port()}"],
        env={**os.environ, **nowhere(), "AI_HUB_API_AUTH": "off"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "AI_HUB_API_AUTH=off would open every tenant's data" in done.stderr


def counted_alive(address: str) -> int:
    """Health checks that the metrics count."""
    text = httpx.get(f"{address}/metrics").text
    counted = re.findall(
        r'ai_hub_http_requests_total\{method="GET",route="/health/live",status="200"\} (\d+)', text
    )
    return int(counted[0]) if counted else 0


@pytest.mark.long  # test_supervisor does the same with processes that start at once
def test_serve__with_two_processes__counts_both_and_replaces_one_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = nowhere() | {"AI_HUB_API_AUTH": "off"}
    with serving(settings, "--no-export-worker", "--workers=2", log=log) as (address, process):
        for _ in range(40):
            assert httpx.get(f"{address}/health/live").status_code == 200
        # and those by which the test found out that it had started; a busy process is late to add its own
        deadline = time.monotonic() + 20
        while counted_alive(address) < 41:
            assert time.monotonic() < deadline
        memory = [each.memory_full_info() for each in workers(process.pid)]
        assert len(memory) == 2
        assert all(each.uss < each.rss / 2 for each in memory), "they share what was imported"
        assert "Started server process [" in log.read_text()

        # the killed one waits for the rest of a body, and its request is under way no more
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.sendall(b"POST /ai/features/get HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{")
            eventually(lambda: in_flight(address) == 1)
            owner = next(
                each
                for each in workers(process.pid)
                if any(
                    line.raddr and line.raddr.port == client.getsockname()[1]
                    for line in each.net_connections()
                )
            )
            owner.send_signal(signal.SIGKILL)
        eventually(lambda: log.read_text().count("Started server process") >= 3)
        eventually(lambda: in_flight(address) == 0)


def test_serve__each_process_gets_sigterm__requests_under_way_finish(tmp_path: Path) -> None:
    """As when the signal is sent to the process group; and after the one that forks workers was killed."""
    log = tmp_path / "log"
    settings = nowhere() | {"AI_HUB_API_AUTH": "off"}
    with serving(settings, "--no-export-worker", "--workers=2", log=log) as (address, process):
        first = workers(process.pid)
        first[0].parent().send_signal(signal.SIGKILL)
        eventually(lambda: all(has_ended(each) for each in first))
        eventually(lambda: len(workers(process.pid)) == 2 and in_flight(address) == 0)
        forking = workers(process.pid)[0].parent()
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            client.sendall(b"POST /ai/features/get HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{")
            eventually(lambda: in_flight(address) == 1)
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.terminate()
            eventually(lambda: "Waiting for connections to close" in log.read_text())
            # without it the service would take its workers for ended, and go
            assert not has_ended(forking)
            client.sendall(b"}")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 422 ")
        assert process.wait(20) == 0
        eventually(lambda: has_ended(forking))


def workers(service: int) -> list[psutil.Process]:
    """Its worker processes, which a process beside it has forked."""
    return [each for child in psutil.Process(service).children() for each in child.children()]


def has_ended(process: psutil.Process) -> bool:
    """Whether it has, also where its parent has not taken notice."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def in_flight(address: str) -> float:
    """Requests under way, as the metrics say."""
    text = httpx.get(f"{address}/metrics", timeout=10).text
    found = re.search(r"^ai_hub_http_requests_in_flight (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError, psutil.NoSuchProcess):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)
