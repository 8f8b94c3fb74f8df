"""The services behind the endpoints, and what endpoints depend on: the caller, and common parameters."""

from __future__ import annotations

import gc
import math
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from psycopg.rows import dict_row

from ai_hub import metrics
from ai_hub.access.authenticator import Authenticator, open_authenticator
from ai_hub.access.principal import Principal
from ai_hub.api.analyses import AnalysisRepository, Computations
from ai_hub.api.errors import OverloadedError
from ai_hub.api.health import Health
from ai_hub.api.schemas.common import AssetId, ModelName, TenantId
from ai_hub.db.transactions import transaction
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.exports.service import ExportService, open_exports
from ai_hub.features.online.reader import FeatureReader, open_reader
from ai_hub.forecasting.service import ForecastService, open_forecasts
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import psycopg

    from ai_hub.access.principal import Scope
    from ai_hub.api.registry_service import RegistryService


_THREADS: Final = 2
_WHERE: Final = (
    "WHERE tenant_id = %(tenant)s AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
    " AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))"
)
_PAGE: Final = f"""
SELECT asset_id, kind, unit, feature_unit, timezone, latitude, longitude, capacity
FROM assets {_WHERE} ORDER BY asset_id LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608  # constants
_COUNT: Final = f"SELECT count(*) FROM assets {_WHERE}"  # noqa: S608  # constants
# written before they were registered, readings have a span only
_EXISTS: Final = """
SELECT FROM assets WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s
UNION ALL
SELECT FROM asset_spans WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s
LIMIT 1
"""


class AssetRepository:
    """Reads as the service's login, which sees one tenant."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def page(
        self, tenant: str, kind: str | None, assets: list[str] | None, limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Assets by id (of `assets`, or all), and how many there are in all.

        Raises:
            ServiceDownError: the database does not answer.
        """
        values = {"tenant": tenant, "kind": kind, "assets": assets, "limit": limit, "offset": offset}

        def read() -> tuple[list[dict[str, Any]], int]:
            with transaction(self._settings, tenant) as connection:
                with connection.cursor(row_factory=dict_row) as cursor:
                    found = cursor.execute(_PAGE.encode(), values).fetchall()
                row = connection.execute(_COUNT.encode(), values).fetchone()
            return found, row[0] if row else 0

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    async def require(self, tenant: str, asset: str) -> None:
        """Make sure that the tenant has an asset.

        Raises:
            NotFoundError: it has not.
            ServiceDownError: the database does not answer.
        """

        def exists() -> bool:
            with transaction(self._settings, tenant) as connection:
                row = connection.execute(_EXISTS, {"tenant": tenant, "asset": asset}).fetchone()
            return row is not None

        if not await anyio.to_thread.run_sync(exists, limiter=self._limiter):
            raise NotFoundError(
                f"Tenant {tenant} has no asset {asset}.", hint="GET /ai/assets lists those there are."
            )


T = TypeVar("T")


class TenantTransactions:
    """Short transactions of one tenant, with the service's login, beside the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def __call__(self, tenant: str, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What `work` returns, in a transaction that is committed by then.

        Raises:
            ServiceDownError: the database does not answer.
        """

        def run() -> T:
            with transaction(self._settings, tenant) as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._limiter)


class RegistryExecutor:
    """Runs blocking calls to the registry, so that a slow MLflow delays nothing else."""

    def __init__(self, options: ServiceSettings) -> None:
        self._slots = anyio.CapacityLimiter(options.registry_calls)
        self._wait_s = options.registry_timeout_s
        # limited by the slots; the framework's own threads are for other work
        self._threads = anyio.CapacityLimiter(math.inf)

    async def run_as(self, caller: Principal, call: Callable[[RegistryService], T]) -> T:
        """The result of `call`, run on behalf of `caller`.

        Raises:
            OverloadedError: no slot became free in time.
            AiHubError: what the registry says.
        """
        token = object()
        with anyio.move_on_after(self._wait_s) as waiting:
            await self._slots.acquire_on_behalf_of(token)
        if waiting.cancelled_caught:
            raise OverloadedError(
                "MLflow is slow, and others wait for it already.", hint="Ask again in a few seconds."
            )
        try:
            return await anyio.to_thread.run_sync(_run_as, caller.name, call, limiter=self._threads)
        finally:
            self._slots.release_on_behalf_of(token)


@asynccontextmanager
async def open_registry_executor(options: ServiceSettings) -> AsyncIterator[RegistryExecutor]:
    """An executor; sets MLflow's client in this process to give up within the timeout, not after minutes."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(options.registry_timeout_s)),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # standard output has one line of JSON a request
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield RegistryExecutor(options)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_as(user: str, call: Callable[[RegistryService], T]) -> T:
    from mlflow_plugins.users.header import speaking_for  # noqa: PLC0415  # as MLflow

    with speaking_for(user):
        return call(_registry_service()(user))


@cache
def _registry_service() -> type[RegistryService]:
    # MLflow takes seconds to import, for which reads of features shall not wait
    from ai_hub.api.registry_service import RegistryService  # noqa: PLC0415

    # or else what it loads would be searched for garbage in the middle of anybody's request
    gc.freeze()
    return RegistryService


@dataclass
class Services:
    """What endpoints and middleware use."""

    options: ServiceSettings
    settings: Settings
    authenticator: Authenticator
    health: Health
    exports: ExportService
    features: FeatureReader
    forecasts: ForecastService
    models: RegistryExecutor
    assets: AssetRepository
    analyses: AnalysisRepository
    computations: Computations
    retraining: TenantTransactions


@asynccontextmanager
async def open_services(options: ServiceSettings, settings: Settings) -> AsyncIterator[Services]:
    """Open every part; none of them needs its servers to be up already."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(metrics.flushed())
        authenticator = await stack.enter_async_context(open_authenticator(options, settings))
        exports = await stack.enter_async_context(open_exports(settings, options.max_in_flight))
        await stack.enter_async_context(exports.counts.kept())
        features = await stack.enter_async_context(open_reader(options, settings))
        models = await stack.enter_async_context(open_registry_executor(options))
        forecasts = await stack.enter_async_context(open_forecasts(settings, features))
        health = Health(settings, lambda: authenticator.loaded and features.catalog.loaded)
        yield Services(
            options,
            settings,
            authenticator,
            health,
            exports,
            features,
            forecasts,
            models,
            AssetRepository(settings),
            AnalysisRepository(settings),
            Computations(),
            TenantTransactions(settings),
        )


# For OpenAPI alone: the middleware checks them.
_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="a key made by `ai-hub keys create`")
_BEARER = HTTPBearer(auto_error=False, description="such a key, or a token of the OpenID provider")


async def caller(request: Request) -> Principal:
    """The authenticated caller. A coroutine, because FastAPI runs functions in threads."""
    return cast("Principal", request.scope["state"]["principal"])


def services_of(request: Request) -> Services:
    """The services of the application."""
    return cast("Services", request.app.state.services)


def permit(request: Request, principal: Principal, scope: Scope, tenant: str, **log_fields: object) -> None:
    """Make sure that the caller has `scope` in `tenant`.

    The tenant and `log_fields` are logged with the request.

    Raises:
        ForbiddenError: it has not.
    """
    state = request.scope["state"]
    state["tenant"] = tenant
    state["log_fields"] = {name: value for name, value in log_fields.items() if value is not None}
    principal.require(scope, tenant)


def own_tenant(principal: Principal, tenant: str | None) -> str:
    """The tenant that a request is about: the one it names, else the one that the key is for.

    Raises:
        BadInputError: it names none, and the key is for several.
    """
    if tenant is not None:
        return tenant
    if len(principal.tenants) == 1:
        return next(iter(principal.tenants))
    raise BadInputError(
        "This request names no tenant, and its key is not for a single one.", hint="Send tenant_id."
    )


#: Parameters of lists.
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="leave out so many of the first")]

#: For routers: says in OpenAPI how to authenticate.
AUTHENTICATED = [Security(_API_KEY), Security(_BEARER)]
Caller = Annotated[Principal, Depends(caller)]
AssetQuery = Annotated[AssetId | None, Query(description="default: every asset")]
ModelQuery = Annotated[ModelName | None, Query(description="default: every model")]
TenantQuery = Annotated[
    TenantId | None, Query(description="default: the tenant of the key", examples=["city-works"])
]


def openapi_links(*operations: str, **parameters: str) -> dict[str, Any]:
    """OpenAPI links of a response to `operations`, with parameters from fields of its body."""
    taken = {name: f"$response.body#/{field}" for name, field in parameters.items()}
    return {"links": {name: {"operationId": name, "parameters": taken} for name in operations}}
