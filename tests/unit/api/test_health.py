"""What readiness says of servers that answer strangely, or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ai_hub.api.health import Health
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def listening(*, resets: bool) -> Iterator[tuple[int, list[socket.socket]]]:
    """A port that resets each connection, or accepts it and says nothing."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                accepted.append(connection)
                if resets:
                    connection.recv(1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1], accepted
        listener.shutdown(socket.SHUT_RDWR)
        for each in accepted:
            each.close()


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {
            "timescale_dsn": f"postgresql://nobody:x@127.0.0.1:{port}/none?sslmode=disable",
            "redis_url": f"redis://127.0.0.1:{port}/0",
            "minio_endpoint_url": f"http://127.0.0.1:{port}",
            "minio_access_key": "key",
            "minio_secret_key": "secret",
            "mlflow_tracking_uri": f"http://127.0.0.1:{port}",
            "feast_registry_uri": f"postgresql+psycopg://nobody:x@127.0.0.1:{port}/none?sslmode=disable",
        }
    )


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "silent"])
def test_check__servers_that_reset_or_keep_silent__are_down_in_time(resets: bool) -> None:
    with listening(resets=resets) as (port, accepted):
        health = Health(settings(port))
        started = time.monotonic()
        found = asyncio.run(asyncio.wait_for(health.check(), 20))
        assert time.monotonic() - started < 15
        assert accepted
    assert found.status == "unavailable"
    assert {name: each.status for name, each in found.dependencies.items()} == dict.fromkeys(
        ("timescaledb", "redis", "feast_registry", "s3", "mlflow"), "down"
    )


def test_check__nothing_was_read_yet__is_unavailable() -> None:
    found = asyncio.run(Health(Settings.model_validate({}), lambda: False).check())
    assert found.status == "unavailable"
