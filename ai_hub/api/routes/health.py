"""Health: whether the process answers, and whether the servers it uses do; and metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from ai_hub.api import observability
from ai_hub.api.services import services_of

router = APIRouter(tags=["health"])
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_VERSION: Final = version("ai-hub")


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ServiceHealth(BaseModel):
    """What answers."""

    status: Literal["healthy"] = "healthy"
    service: Literal["ai-hub"] = "ai-hub"
    version: str = _VERSION
    timestamp: datetime
    environment: str = Field(description="AI_HUB_API_ENVIRONMENT", examples=["production"])


class DependencyHealth(BaseModel):
    """One server that the service uses."""

    status: Literal["ok", "down", "unset"]
    seconds: float = Field(description="how long the check took")


class Ready(BaseModel):
    """What works."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="ready: everything works; degraded: features are answered, something else is down"
    )
    dependencies: dict[str, DependencyHealth]


@router.get("/health")
async def service_health(request: Request) -> ServiceHealth:
    """Which service answers; asks no other server."""
    return ServiceHealth(timestamp=datetime.now(UTC), environment=services_of(request).options.environment)


@router.get("/api/health")
async def gateway_health(request: Request) -> ServiceHealth:
    """The same, under the path that the suite's gateway asks."""
    return await service_health(request)


@router.get("/health/live")
async def live() -> Live:
    """Whether the process answers; asks no other server."""
    return Live()


@router.get(
    "/health/ready",
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE: {"model": Ready, "description": "No features can be answered"}
    },
)
async def ready(request: Request, response: Response) -> Ready:
    """Whether features can be answered, and which servers work; found out at most once in two seconds."""
    found = await services_of(request).health.check()
    if found.status == "unavailable":
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Ready(
        status=found.status,
        dependencies={
            name: DependencyHealth(status=each.status, seconds=round(each.seconds, 4))
            for name, each in found.dependencies.items()
        },
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def prometheus(request: Request) -> Response:
    """Metrics of every process of this service, for Prometheus; none names a tenant."""
    text = await observability.scrape(services_of(request).exports.counts)
    return Response(text, media_type=_METRICS_TYPE)
