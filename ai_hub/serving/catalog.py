"""Which features there are: Feast's registry as it was read last, read again in a thread.

Requests never wait for the registry's database: they use what is known, however old, until it answers again.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from feast.errors import FeastError
from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistry, SqlRegistryConfig
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ai_hub.errors import AiHubError, BadInputError, ServiceDownError
from ai_hub.features.store import repo_config
from ai_hub.serving import choose
from ai_hub.serving.query import Query, resolve
from feast_plugins.online.plan import Plans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from feast import FeatureService, RepoConfig

    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 10_000
_FIRST_WAIT_S = 10.0
_RETRY_S = 1.0
_MOST = 1000
DEFAULT_SET = "forecast_basic"


class Catalog:
    """Feature services and queries of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry: Any = None
        self._config: RepoConfig | None = None
        self._plans = Plans()
        self._services: dict[str, FeatureService] = {}
        self._queries: dict[tuple[str | None, tuple[str, ...] | None], Query] = {}
        self._tried = asyncio.Event()
        self._failure: AiHubError | None = None

    @property
    def config(self) -> RepoConfig:
        """The store's configuration."""
        if self._config is None:
            self._config = repo_config(self._settings)
        return self._config

    async def services(self) -> dict[str, FeatureService]:
        """Every feature service by its name.

        Raises:
            ServiceDownError: the registry was never read.
            SettingMissingError: there is none.
        """
        if self._registry is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _FIRST_WAIT_S)
            if self._registry is None:
                raise self._failure or _down(self._settings, "it was not read yet")
        return self._services

    def stored_views(self, name: str) -> list[str]:
        """The stored feature views behind a view: itself, or those an on-demand view computes from."""
        view = self._registry.get_any_feature_view(name, self.config.project, allow_cache=True)
        sources = getattr(view, "source_feature_view_projections", None)
        return [name] if sources is None else sorted({each.name for each in sources.values()})

    async def query(self, feature_set: str | None, names: Sequence[str] | None) -> Query:
        """What a request asks for.

        Raises:
            NotFoundError: there is no such set, or it has no such features; names those there are.
            BadInputError: this set cannot be answered.
            ServiceDownError: the registry was never read.
        """
        key = (feature_set, None if names is None else tuple(names))
        queries = self._queries  # of one state of the registry: another one has others
        if (known := queries.get(key)) is not None:
            return known
        services = await self.services()
        chosen = choose.features(services, feature_set, key[1], default=DEFAULT_SET)
        try:
            plan = self._plans.get(self.config, self._registry, self.config.project, chosen, full_names=False)
        except FeastError as error:
            raise BadInputError(
                f"These features cannot be asked for together: {error}",
                hint="Name a feature_set, or fewer features.",
            ) from error
        # a set that was found for names is nobody's label: names are the caller's
        label = feature_set or (DEFAULT_SET if names is None else "any")
        found = resolve(self.config, plan, label, key[1])
        if len(queries) >= _MOST:
            queries.clear()
        queries[key] = found
        return found

    async def keep_up(self) -> None:
        """Read the registry again and again."""
        # one thread of its own: the others are for requests
        with ThreadPoolExecutor(1, "registry") as pool:
            while True:
                pause = _RETRY_S
                try:
                    await asyncio.get_running_loop().run_in_executor(pool, self._read)
                    self._failure = None
                    pause = float(self.config.registry.cache_ttl_seconds)
                except AiHubError as error:
                    self._failure = error
                except (SQLAlchemyError, FeastRegistrySchemaError) as error:
                    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
                    self._failure = _down(self._settings, reason)
                    _log.warning("registry_not_read", reason=reason)
                except Exception as error:  # noqa: BLE001  # what is known goes on being used, whatever it is
                    self._failure = _down(self._settings, f"{type(error).__name__}: {error}")
                    _log.exception("registry_not_read")
                self._tried.set()
                await asyncio.sleep(pause)

    def _read(self) -> None:
        if self._registry is None:
            self._open()
            return
        proto = self._registry.proto()
        if proto != self._registry.cached_registry_proto:
            self._registry.cached_registry_proto = proto
            self._registry.cached_registry_proto_created = datetime.now(UTC)
            self._list(self._registry)

    def _open(self) -> None:
        config = self.config
        url = self._settings.require("feast_registry_uri")
        options: dict[str, Any] = {"poolclass": NullPool}
        if make_url(url).get_backend_name() == "postgresql":
            limits = f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}"
            options["connect_args"] = {"connect_timeout": _CONNECT_TIMEOUT_S, "options": limits}
        registry = SqlRegistry(
            # 0: it is never due, so nothing that uses it reads it by itself
            SqlRegistryConfig(
                path=url, schema_mode="verify", cache_ttl_seconds=0, sqlalchemy_config_kwargs=options
            ),
            config.project,
            None,
        )
        self._list(registry)
        self._registry = registry

    def _list(self, registry: Any) -> None:
        listed = registry.list_feature_services(self.config.project, allow_cache=True)
        self._services = {service.name: service for service in listed}
        self._queries = {}


def _down(settings: Settings, reason: str) -> ServiceDownError:
    place = make_url(settings.require("feast_registry_uri")).render_as_string(hide_password=True)
    return ServiceDownError("Feast's registry", place, reason)


@asynccontextmanager
async def open_catalog(settings: Settings) -> AsyncIterator[Catalog]:
    """A catalog that is kept up to date until it is closed."""
    catalog = Catalog(settings)
    with suppress(AiHubError):  # a setting that is missing is told to whoever asks
        # the classes it names are imported now, while nobody waits
        _ = catalog.config.online_store, catalog.config.offline_store
    task = asyncio.create_task(catalog.keep_up(), name="registry")
    try:
        yield catalog
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
