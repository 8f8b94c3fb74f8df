"""Name the server that is down and how to bring it back, before or after somebody needed it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai_hub.errors import ServiceDownError
from ai_hub.servers import without_secrets
from ai_hub.settings import Settings
from ai_hub.stack import plan, ports, record
from ai_hub.stack.services import SERVICES
from ai_hub.stack.up import recorded_handle

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 2.0
_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "postgresql": 5432,
    "postgres": 5432,
    "redis": 6379,
    "rediss": 6379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
}
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
    """Make sure that something answers at the address of each service.

    `names` are those of `services.SERVICES`. Takes milliseconds, so commands call it
    first: clients of their own would retry for minutes.

    Raises:
        SettingMissingError: a service is neither configured nor recorded.
        ServiceDownError: one does not answer.
    """
    settings = settings or Settings()
    for name in names:
        service = SERVICES[name]
        address = settings.require(service.setting.lower())
        errors = [ports.answers(host, port, _TIMEOUT_S) for host, port in _places(address)]
        # of several servers one is enough to find the others
        if (error := errors[0]) and all(errors):
            reason = error.strerror or str(error)
            raise ServiceDownError(service.title, without_secrets(address), reason, hint=diagnose(name))


def _places(address: str) -> list[tuple[str, int]]:
    """Host and port of each server that an address names."""
    parts = urlsplit(address)
    nodes = [urlsplit(f"//{node}") for node in parts.netloc.rpartition("@")[2].split(",")]
    default = _DEFAULT_PORTS.get(parts.scheme, 80)
    return [(node.hostname or ports.LOOPBACK, node.port or default) for node in nodes]


def diagnose(name: str) -> str:
    """What is known about a service that does not answer, and how to bring it back."""
    service = SERVICES[name]
    known = record.load()
    if plan.outside(service, known) is not None:
        return (
            f"{service.setting} names a server outside the embedded stack: start it, or "
            f"`unset {service.setting}` and run `ai-hub up --detach` to use the embedded one."
        )
    entry = known.services.get(name)
    if entry is None or entry.pid is None:
        return f"The embedded {service.title} is stopped. Start it with `ai-hub up --detach`."
    if recorded_handle(known, service) is None:
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
