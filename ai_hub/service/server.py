"""Runs the service until it is stopped."""

from __future__ import annotations

import uvicorn

_KEEP_ALIVE_S = 75
_SHUTDOWN_S = 20


def serve(host: str, port: int, *, workers: int) -> None:
    """Serve with `workers` processes; SIGTERM lets requests under way finish."""
    uvicorn.run(
        "ai_hub.service.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
