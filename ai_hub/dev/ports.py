"""Which ports of 127.0.0.1 the servers get."""

from __future__ import annotations

import secrets
import socket

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ai_hub.errors import ConflictError

LOOPBACK = "127.0.0.1"
#: Below the range from which outgoing connections take theirs, so that a stopped server's port stays free.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 200


class PortSettings(BaseSettings):
    """Ports a person wants the embedded servers on."""

    model_config = SettingsConfigDict(
        env_prefix="AI_HUB_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    timescale_port: int | None = Field(None, ge=1, le=65535)
    redis_port: int | None = Field(None, ge=1, le=65535)
    s3_port: int | None = Field(None, ge=1, le=65535)
    mlflow_port: int | None = Field(None, ge=1, le=65535)
    api_port: int | None = Field(None, ge=1, le=65535)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(
    *, configured: int | None, recorded: int | None, taken: set[int], variable: str, distance: int = 0
) -> int:
    """The configured port, else the recorded one if it is still free, else any free one.

    With `distance`, the port that much above it is free as well.

    Raises:
        ConflictError: the configured port, or every port tried, is in use.
    """
    if configured is not None:
        if configured in taken or not is_free(configured):
            raise ConflictError(
                f"Port {configured} ({variable}) is in use by another program.",
                hint=f"Stop that program, or set {variable} to another port or to nothing.",
            )
        return configured
    candidates = [] if recorded is None else [recorded]
    candidates += [secrets.choice(_RANGE) for _ in range(_ATTEMPTS)]
    for port in candidates:
        if port not in taken and is_free(port) and (not distance or is_free(port + distance)):
            return port
    raise ConflictError(
        "No free port was found on 127.0.0.1.", hint=f"Set {variable} to a port that is free."
    )
