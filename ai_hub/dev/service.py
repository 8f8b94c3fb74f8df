"""What every embedded server has in common, and the ports of 127.0.0.1 that they get."""

from __future__ import annotations

import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping  # dataclass fields
from dataclasses import dataclass
from pathlib import Path  # dataclass fields
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """Where one server lives: its folder, its ports, and the secrets its clients need."""

    folder: Path
    port: int
    ports: Mapping[str, int]
    credentials: Mapping[str, str]


class Service(ABC):
    """One server: how it is started, what its clients must know, how to tell that it works."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: Setting that leads to it; naming an outside server there means that none is started.
    setting: ClassVar[str]
    #: Field of `PortSettings`.
    port_field: ClassVar[str]
    #: Further ports the server opens.
    extra_ports: ClassVar[tuple[str, ...]] = ()
    #: By further port: distance to one more port that the server opens by itself.
    derived_ports: ClassVar[Mapping[str, int]] = {}
    #: Secrets by setting name; generated unless a person set them.
    secrets: ClassVar[tuple[str, ...]] = ()
    start_timeout_s: ClassVar[float] = 60
    stop_grace_s: ClassVar[float] = 10

    @abstractmethod
    def endpoint(self, port: int) -> str:
        """Address without secrets, for people."""

    @abstractmethod
    def exports(self, site: Site) -> dict[str, str]:
        """Settings that lead clients to this server."""

    def prepare(self, site: Site, say: Say) -> None:  # noqa: B027  # most need nothing
        """Install and write what the server needs before it can start."""

    @abstractmethod
    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """Program and arguments; no secrets, others can read them."""

    def environment(self, site: Site, settings: Mapping[str, str]) -> dict[str, str]:
        """Variables for the server's process, beside those of the caller."""
        del site, settings
        return {}

    @abstractmethod
    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """Use the server as a client does; works for outside servers as well.

        Raises:
            NotReadyError: it does not work.
        """

    def finish(self, settings: Mapping[str, str]) -> None:  # noqa: B027  # most need nothing
        """Create what clients expect to find, once the server works."""


LOOPBACK = "127.0.0.1"
#: Below the range from which outgoing connections take theirs, so that a stopped server's port stays free.
_RANGE = range(20_000, 32_000)
_EPHEMERAL = 32_768
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


def choose_port(
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
    within = [port for port in _RANGE if port + distance < _EPHEMERAL]
    candidates += [secrets.choice(within) for _ in range(_ATTEMPTS)]
    for port in candidates:
        if port not in taken and is_free(port) and (not distance or is_free(port + distance)):
            return port
    raise ConflictError(
        "No free port was found on 127.0.0.1.", hint=f"Set {variable} to a port that is free."
    )
