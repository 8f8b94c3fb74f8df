"""Checks of the servers that the service uses."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, LiteralString

import psycopg
import structlog
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ai_hub.db.tenant_scope import ENTER, service_dsn
from ai_hub.errors import AiHubError, SettingMissingError
from ai_hub.exports.locations import Bucket, tenant_location
from ai_hub.servers import NotReadyError, check_bucket, check_http, check_redis, check_s3

if TYPE_CHECKING:
    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
_TIMEOUT_S: Final = 2.0
#: Any tenant's rows will do: what is checked is that the login may read them, and the keys.
_TENANT: Final = "health"
_KEYS: Final[LiteralString] = "SELECT FROM public.api_keys LIMIT 1"
_ROWS: Final[LiteralString] = "SELECT FROM assets LIMIT 1"
#: Answers to any account, and to no other; not known where the server has no login.
_ACCOUNT: Final = "/api/2.0/mlflow/users/current"
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
    """Checks the servers side by side, each within three seconds.

    `loaded` says whether the keys and the feature sets were ever read: until then nothing is answered.
    """

    def __init__(self, settings: Settings, loaded: Callable[[], bool] = lambda: True) -> None:
        self._settings = settings
        self._loaded = loaded
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
        found = await asyncio.gather(*(self._ask(name) for name in _CHECKS))
        dependencies = dict(zip(_CHECKS, found, strict=True))
        self._log_changes(dependencies)
        loaded = self._loaded()
        if loaded and all(each.status == "ok" for each in found):
            return Finding("ready", dependencies)
        answers = loaded and any(dependencies[name].status == "ok" for name in ("timescaledb", "redis"))
        return Finding("degraded" if answers else "unavailable", dependencies)

    def _log_changes(self, found: Mapping[str, Dependency]) -> None:
        for name, each in found.items():
            before = self._statuses.get(name, "ok")
            self._statuses[name] = each.status
            if each.status == "down" != before:
                _log.warning("dependency.failed", dependency=name, reason=each.reason)
            elif before == "down" != each.status:
                _log.info("dependency.recovered", dependency=name)

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
        started = time.monotonic()
        try:
            _CHECKS[name](self._settings)
        except SettingMissingError:
            return Dependency("unset")
        except (NotReadyError, AiHubError) as error:
            return Dependency("down", time.monotonic() - started, str(error))
        return Dependency("ok", time.monotonic() - started)


def _timescaledb(settings: Settings) -> None:
    """The service's login reads the keys, and rows inside the tenant scope."""
    try:
        with psycopg.connect(
            service_dsn(settings), connect_timeout=math.ceil(_TIMEOUT_S), application_name="ai-hub health"
        ) as connection:
            connection.execute(_KEYS)
            connection.execute(ENTER, [_TENANT])
            connection.execute(_ROWS)
    except psycopg.Error as error:
        raise NotReadyError(_first_line(error)) from error


def _redis(settings: Settings) -> None:
    """`PING`, with the password."""
    settings.require("redis_url")
    check_redis(settings.environment()["REDIS_URL"], _TIMEOUT_S)


def _feast_registry(settings: Settings) -> None:
    """The registry has feature services."""
    url = make_url(settings.require("feast_registry_uri"))
    limit: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        limit = {"connect_timeout": math.ceil(_TIMEOUT_S)}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=limit)
        with engine.connect() as connection:
            row = connection.execute(text("SELECT 1 FROM feature_services LIMIT 1")).first()
    except SQLAlchemyError as error:
        raise NotReadyError(_first_line(getattr(error, "orig", None) or error)) from error
    if row is None:
        raise NotReadyError("it has no feature services: run `feast apply`")


def _s3(settings: Settings) -> None:
    """The keys reach the bucket of models, and that of exports where they go to one."""
    settings.require("minio_endpoint_url")
    environment = settings.environment()
    check_s3(environment, _TIMEOUT_S)
    place = tenant_location(settings, _TENANT)
    if isinstance(place, Bucket):
        check_bucket(environment, place.name, _TIMEOUT_S)


def _mlflow(settings: Settings) -> None:
    """The server answers, and where it has a login, takes the service's account."""
    base = settings.require("mlflow_tracking_uri").rstrip("/")
    check_http(f"{base}/health", _TIMEOUT_S)
    request = urllib.request.Request(f"{base}{_ACCOUNT}")  # noqa: S310  # from the settings
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    if (login := [os.environ.get(name, "") for name in names])[0]:
        request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(login).encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310  # as above
            pass
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:  # a server without a login does not know the address
            raise NotReadyError(
                f"MLflow answers {error.code} to the account in {names[0]}: check it and {names[1]}"
            ) from error
    except OSError as error:
        raise NotReadyError(str(error)) from error


_CHECKS: Final[Mapping[str, Callable[[Settings], None]]] = {
    "timescaledb": _timescaledb,
    "redis": _redis,
    "feast_registry": _feast_registry,
    "s3": _s3,
    "mlflow": _mlflow,
}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
