"""The REST service in a thread of the test's process, on a free port: real HTTP, and quick to start."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import uvicorn

from ai_hub.api.app import create_app
from ai_hub.api.http_protocol import BoundedProtocol
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

_START_S = 30


@contextmanager
def running_service(
    settings: Settings | None = None, options: ServiceSettings | None = None
) -> Iterator[str]:
    """Address of a service with these settings (default: the environment's), for the block."""
    with running_app(create_app(options or ServiceSettings(), settings or Settings())) as address:
        yield address


@contextmanager
def running_app(app: ASGIApp, lifespan: Literal["on", "off"] = "on") -> Iterator[str]:
    """Address of an application behind the service's web server, for the block."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan=lifespan, http=BoundedProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="service", daemon=True
    )
    thread.start()
    try:
        _wait(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_START_S)
        listener.close()


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    for _ in range(_START_S * 100):
        if server.started:
            return
        assert thread.is_alive(), "the service ended before it was ready"
        thread.join(0.01)
    raise TimeoutError("the service did not start")
