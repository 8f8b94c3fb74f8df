"""State of the servers; which one is down, and how to bring it back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from ai_hub.dev import record
from ai_hub.dev.control import recorded_handle
from ai_hub.dev.services import SERVICES, outside_address
from ai_hub.errors import ServiceDownError
from ai_hub.servers import NoConnectionError, NotReadyError, require_connection, without_secrets
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ai_hub.dev.service import Service


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
    stack = record.load()
    settings = Settings().environment()
    with ThreadPoolExecutor(max_workers=len(services)) as pool:
        return list(pool.map(lambda service: _one(service, stack, settings), services))


def _one(service: Service, stack: record.StackRecord, settings: Mapping[str, str]) -> ServiceStatus:
    if (address := outside_address(service, stack)) is not None:
        return ServiceStatus(
            name=service.name,
            title=service.title,
            state="outside",
            health=_health(service, settings),
            endpoint=without_secrets(address),
        )
    entry = stack.services.get(service.name)
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
    if recorded_handle(stack, service) is None:
        return row.model_copy(update={"state": "dead", "health": f"pid {entry.pid} is gone"})
    return row.model_copy(update={"state": "running", "health": _health(service, settings), "pid": entry.pid})


def _health(service: Service, settings: Mapping[str, str]) -> str:
    try:
        service.check(settings, _CHECK_TIMEOUT_S)
    except NotReadyError as error:
        return str(error).splitlines()[0]
    return "ok"


#: Exceptions that may mean a server is away, by the module that defines them.
_CONNECTION_ERRORS = {
    ("psycopg", "OperationalError"): ("timescaledb",),
    ("psycopg2", "OperationalError"): ("timescaledb",),
    ("sqlalchemy.exc", "OperationalError"): ("timescaledb",),
    ("redis.exceptions", "ConnectionError"): ("redis",),
    ("redis.exceptions", "TimeoutError"): ("redis",),
    ("botocore.exceptions", "HTTPClientError"): ("s3",),
    ("requests.exceptions", "RequestException"): ("mlflow", "s3"),
    ("mlflow.exceptions", "MlflowException"): ("mlflow", "s3"),
}


def require(*names: str, settings: Settings | None = None) -> None:
    """Make sure that something accepts connections at the address of each service (`services.SERVICES`).

    Raises:
        SettingMissingError: a service is neither configured nor recorded.
        ServiceDownError: nothing does.
    """
    settings = settings or Settings()
    for name in names:
        service = SERVICES[name]
        address = settings.require(service.setting.lower())
        try:
            require_connection(service.title, address)
        except NoConnectionError as error:
            raise with_diagnosis(error) from error


def with_diagnosis(error: NoConnectionError) -> ServiceDownError:
    """The error, with what is known about the server and how to bring it back."""
    name = next(name for name, service in SERVICES.items() if service.title == error.service)
    return ServiceDownError(error.service, error.endpoint, error.reason, hint=diagnose(name))


def diagnose(name: str) -> str:
    """What is known about a service that does not answer, and how to bring it back."""
    service = SERVICES[name]
    stack = record.load()
    if outside_address(service, stack) is not None:
        return (
            f"{service.setting} names a server outside the embedded stack: start it, or "
            f"`unset {service.setting}` and run `ai-hub up --detach` to use the embedded one."
        )
    entry = stack.services.get(name)
    if entry is None or entry.pid is None:
        return f"The embedded {service.title} is stopped. Start it with `ai-hub up --detach`."
    if recorded_handle(stack, service) is None:
        tail = entry.log_tail(5) or "(empty)"
        return (
            f"The embedded {service.title} (pid {entry.pid}) has died. Last lines of {entry.log}:\n{tail}\n"
            "Bring it back with `ai-hub up --detach`; the servers that still run are left alone."
        )
    return (
        f"The embedded {service.title} (pid {entry.pid}) runs but does not answer; see {entry.log}. "
        "Restart the servers with `ai-hub down` and `ai-hub up --detach`."
    )


def translate(error: BaseException) -> ServiceDownError | None:
    """The server whose absence caused `error`, found by asking it; None when they all answer."""
    for name in dict.fromkeys(_suspects(error)):
        try:
            require(name)
        except ServiceDownError as down:
            return down
    return None


def _suspects(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        for (module, attribute), names in _CONNECTION_ERRORS.items():
            # Only a library that is already loaded can have raised it.
            kind = getattr(sys.modules.get(module), attribute, None)
            if kind is not None and isinstance(error, kind):
                yield from names
        error = error.__cause__ or error.__context__
