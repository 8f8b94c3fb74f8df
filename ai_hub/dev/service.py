"""What every server has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping  # dataclass fields
from dataclasses import dataclass
from pathlib import Path  # dataclass fields
from typing import TYPE_CHECKING, ClassVar

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
