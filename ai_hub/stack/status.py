"""How the servers are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from ai_hub.servers import NotReadyError, without_secrets
from ai_hub.settings import Settings
from ai_hub.stack import plan, record
from ai_hub.stack.up import recorded_handle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.stack.service import Service

_CHECK_TIMEOUT_S = 3.0


class ServiceStatus(BaseModel):
    """One row of `ai-hub status`."""

    name: str
    title: str
    state: Literal["running", "stopped", "dead", "outside"]
    #: `ok`, why it does not work, or empty when it should not run.
    health: str
    endpoint: str
    pid: int | None = None
    log: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether nothing needs attention: it works, or it is stopped on purpose."""
        return self.health == "ok" or self.state == "stopped"


def status(services: Sequence[Service]) -> list[ServiceStatus]:
    """State and health of each service, found out side by side."""
    known = record.load()
    settings = Settings().environment()
    with ThreadPoolExecutor(max_workers=len(services)) as pool:
        return list(pool.map(lambda service: _one(service, known, settings), services))


def _one(service: Service, known: record.StackRecord, settings: Mapping[str, str]) -> ServiceStatus:
    if (address := plan.outside(service, known)) is not None:
        return ServiceStatus(
            name=service.name,
            title=service.title,
            state="outside",
            health=_health(service, settings),
            endpoint=without_secrets(address),
        )
    entry = known.services.get(service.name)
    if entry is None:
        return ServiceStatus(name=service.name, title=service.title, state="stopped", health="", endpoint="")
    row = ServiceStatus(
        name=service.name,
        title=service.title,
        state="stopped",
        health="",
        endpoint=entry.endpoint,
        log=str(entry.log),
    )
    if entry.pid is None:
        return row
    if recorded_handle(known, service) is None:
        return row.model_copy(update={"state": "dead", "health": f"pid {entry.pid} is gone"})
    return row.model_copy(update={"state": "running", "health": _health(service, settings), "pid": entry.pid})


def _health(service: Service, settings: Mapping[str, str]) -> str:
    try:
        service.check(settings, _CHECK_TIMEOUT_S)
    except NotReadyError as error:
        return str(error).splitlines()[0]
    return "ok"
