"""Calls to the model registry, which block: in threads of their own, each in its caller's name."""

from __future__ import annotations

import math
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from ai_hub.api.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ai_hub.access.principal import Principal
    from ai_hub.api import registry_service
    from ai_hub.settings import ServiceSettings

    Desk = registry_service.ModelDesk

T = TypeVar("T")


class ModelRegistry:
    """The registry as endpoints call it; a slow MLflow holds up nothing but these calls."""

    def __init__(self, options: ServiceSettings) -> None:
        self._turns = anyio.CapacityLimiter(options.registry_calls)
        self._wait_s = options.registry_timeout_s
        # the turns limit them; the framework's own threads are for others
        self._threads = anyio.CapacityLimiter(math.inf)

    async def ask(self, caller: Principal, question: Callable[[Desk], T]) -> T:
        """What `question` finds out, asked on behalf of `caller`.

        Raises:
            OverloadedError: so many others ask that its turn did not come in time.
            AiHubError: what the registry says.
        """
        turn = object()
        with anyio.move_on_after(self._wait_s) as waiting:
            await self._turns.acquire_on_behalf_of(turn)
        if waiting.cancelled_caught:
            raise OverloadedError(
                "MLflow is slow, and others wait for it already.", hint="Ask again in a few seconds."
            )
        try:
            return await anyio.to_thread.run_sync(_answer, caller.name, question, limiter=self._threads)
        finally:
            self._turns.release_on_behalf_of(turn)


@asynccontextmanager
async def open_model_registry(options: ServiceSettings) -> AsyncIterator[ModelRegistry]:
    """The registry, with MLflow's client in this process set to give up soon instead of after minutes."""
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
        yield ModelRegistry(options)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _answer(name: str, question: Callable[[Desk], T]) -> T:
    # MLflow takes seconds to import, which whoever asks for features shall not wait for
    from ai_hub.api.registry_service import ModelDesk  # noqa: PLC0415
    from mlflow_plugins.people.user_header import speaking_for  # noqa: PLC0415

    with speaking_for(name):
        return question(ModelDesk(name))
