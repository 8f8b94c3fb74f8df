"""The servers of the stack, in the order people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.stack.api_server import ApiService
from ai_hub.stack.mlflow_server import MlflowService
from ai_hub.stack.redis_server import RedisService
from ai_hub.stack.s3 import S3Service
from ai_hub.stack.timescale import TimescaleService

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_hub.stack.service import Service

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
