"""How the servers are that the service uses, asked as a client does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog

from ai_hub.errors import SettingMissingError
from ai_hub.stack.service import NotReadyError
from ai_hub.stack.services import SERVICES

if TYPE_CHECKING:
    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
_NAMES = ("timescaledb", "redis", "s3", "mlflow")
_TIMEOUT_S = 2.0
#: For all of a check: its parts may take that long each, and a silent network ends none of them.
_PATIENCE_S = 3.0
#: How long a finding holds: whoever asks all the time costs nothing.
_HOLDS_S = 2.0


@dataclass(frozen=True)
class Dependency:
    """One server."""

    status: Literal["ok", "down", "unset"]
    seconds: float = 0.0
    #: for the log alone: it may name addresses
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """All of them."""

    status: Literal["ready", "degraded", "unavailable"]
    dependencies: Mapping[str, Dependency]


class Health:
    """Checks the servers side by side, each within three seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._asking: dict[str, asyncio.Task[Dependency]] = {}
        self._last: tuple[float, Finding] | None = None
        self._statuses: dict[str, str] = {}

    async def check(self) -> Finding:
        """The state of a moment ago, or a new one."""
        async with self._lock:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > _HOLDS_S:
                self._last = now, await self._find_out()
            return self._last[1]

    async def _find_out(self) -> Finding:
        found = await asyncio.gather(*(self._ask(name) for name in _NAMES))
        dependencies = dict(zip(_NAMES, found, strict=True))
        self._log_changes(dependencies)
        if all(each.status == "ok" for each in found):
            return Finding("ready", dependencies)
        answers = any(dependencies[name].status == "ok" for name in ("timescaledb", "redis"))
        return Finding("degraded" if answers else "unavailable", dependencies)

    def _log_changes(self, found: Mapping[str, Dependency]) -> None:
        for name, each in found.items():
            before = self._statuses.get(name, "ok")
            self._statuses[name] = each.status
            if each.status == "down" != before:
                _log.warning("dependency_down", dependency=name, reason=each.reason)
            elif before == "down" != each.status:
                _log.info("dependency_back", dependency=name)

    async def _ask(self, name: str) -> Dependency:
        """What a server says in time; one that keeps silent is asked once, however often somebody looks."""
        asking = self._asking.get(name)
        if asking is None or asking.done():
            asking = self._asking[name] = asyncio.create_task(asyncio.to_thread(self._one, name))
        try:
            return await asyncio.wait_for(asyncio.shield(asking), _PATIENCE_S)
        except TimeoutError:
            return Dependency("down", _PATIENCE_S, f"no answer within {_PATIENCE_S:.0f} s")

    def _one(self, name: str) -> Dependency:
        service = SERVICES[name]
        started = time.monotonic()
        try:
            self._settings.require(service.setting.lower())
            service.check(self._settings.environment(), _TIMEOUT_S)
        except NotReadyError as error:
            return Dependency("down", time.monotonic() - started, str(error))
        except SettingMissingError:
            return Dependency("unset")
        return Dependency("ok", time.monotonic() - started)
