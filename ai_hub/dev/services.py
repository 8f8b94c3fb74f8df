"""The servers, in the order people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_hub.dev.api_server import ApiService
from ai_hub.dev.mlflow_server import MlflowService
from ai_hub.dev.redis_server import RedisService
from ai_hub.dev.s3_server import S3Service
from ai_hub.dev.timescale_server import TimescaleService
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_hub.dev.service import Service


SERVICES: dict[str, Service] = {
    service.name: service
    for service in (TimescaleService(), RedisService(), S3Service(), MlflowService(), ApiService())
}


def select(names: Iterable[str]) -> list[Service]:
    """Services by name; all of them when no name is given.

    Raises:
        BadInputError: no service has that name.
    """
    wanted = list(names)
    if unknown := sorted(set(wanted) - SERVICES.keys()):
        raise BadInputError(
            f"Unknown service: {', '.join(unknown)}.", hint=f"Known are {', '.join(SERVICES)}."
        )
    return [service for service in SERVICES.values() if not wanted or service.name in wanted]
