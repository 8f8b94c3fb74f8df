"""The services behind the endpoints, opened before the first request and closed after the last."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.access.authenticator import Authenticator, open_authenticator
from ai_hub.api.assets import AssetRepository
from ai_hub.api.health import Health
from ai_hub.api.registry_executor import RegistryExecutor, open_registry_executor
from ai_hub.exports.service import ExportService, open_exports
from ai_hub.features.online.reader import FeatureReader, open_reader
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Services:
    """What endpoints and middleware use."""

    options: ServiceSettings
    settings: Settings
    authenticator: Authenticator
    health: Health
    exports: ExportService
    features: FeatureReader
    models: RegistryExecutor
    assets: AssetRepository


@asynccontextmanager
async def open_services(options: ServiceSettings, settings: Settings) -> AsyncIterator[Services]:
    """Open every part; none of them needs its servers to be up already."""
    async with AsyncExitStack() as stack:
        authenticator = await stack.enter_async_context(open_authenticator(options, settings))
        exports = await stack.enter_async_context(open_exports(settings, options.max_in_flight))
        await stack.enter_async_context(exports.counts.kept())
        features = await stack.enter_async_context(open_reader(options, settings))
        models = await stack.enter_async_context(open_registry_executor(options))
        health = Health(settings, lambda: authenticator.loaded and features.catalog.loaded)
        assets = AssetRepository(settings)
        yield Services(options, settings, authenticator, health, exports, features, models, assets)
