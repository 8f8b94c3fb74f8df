"""Runs calls to the model registry in threads of their own, each as its caller."""

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
    from ai_hub.api.registry_service import RegistryService
    from ai_hub.settings import ServiceSettings

T = TypeVar("T")


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
    # MLflow takes seconds to import, for which reads of features shall not wait
    from ai_hub.api.registry_service import RegistryService  # noqa: PLC0415
    from mlflow_plugins.users.header import speaking_for  # noqa: PLC0415

    with speaking_for(user):
        return call(RegistryService(user))
