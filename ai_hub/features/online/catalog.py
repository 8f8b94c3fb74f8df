"""Which features there are: Feast's registry as `feast apply` last left it, polled twice a second.

Requests never wait for the registry's database: they use the state that is known, however old, until it
answers again. A state is used as a whole: no request meets the service of one and the view of another.

`feast apply` writes each object in a transaction of its own. So the registry is read only when nothing in
it has changed for a moment, and what was read counts only if nothing changed meanwhile. Whether something
changed is one short query that reads no definition.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import asyncio
import copy
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from feast.errors import FeastError
from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistryConfig, metadata
from sqlalchemy import create_engine, event, func, inspect, select, text, union_all
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ai_hub.errors import AiHubError, BadInputError, ServiceDownError
from ai_hub.features.online.query import (
    MEANING_TAG,
    Outputs,
    Query,
    choose_features,
    meanings_by_name,
    resolve,
)
from ai_hub.features.store import repo_config
from feast_plugins.online.plan import Plans
from feast_plugins.registry import NumberedRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Sequence

    from feast import FeatureService, RepoConfig
    from sqlalchemy.engine import Connection

    from ai_hub.settings import Settings


_CONNECT_TIMEOUT_S: Final = 5
_STATEMENT_TIMEOUT_MS: Final = 10_000
#: The objects of an apply follow each other within milliseconds.
SETTLED_S: Final = 0.3
_TABLES: Final = tuple(
    table
    for table in metadata.sorted_tables
    if {"project_id", "last_updated_timestamp"} <= set(table.columns.keys())
)


class RegistryWatcher:
    """Watches one registry; for one thread."""

    def __init__(self, url: str, project: str) -> None:
        self._project = project
        self._url = make_url(url)
        self._registry: Any = None
        #: what was seen last, since when it has been so, and what the last state read was of
        self._seen: Hashable = None
        self._since = 0.0
        self._read: Hashable = None

    @property
    def changed_s(self) -> float:
        """Seconds since the registry was last seen to change."""
        return time.monotonic() - self._since

    @property
    def is_changing(self) -> bool:
        """Whether there is a newer state than the one that was read last."""
        return self._seen != self._read

    def poll(self) -> Any | None:
        """A registry with the present state in its cache; None: it has not changed, or is changing now.

        Raises:
            SQLAlchemyError: the database does not answer.
            FeastRegistrySchemaError: nothing was ever applied to it.
        """
        if self._registry is None:
            self._registry = self._open()
        token = self._token()
        if token != self._seen:
            self._seen, self._since = token, time.monotonic()
        if not self.is_changing or self.changed_s < SETTLED_S:
            return None
        proto = self._registry.proto()
        if self._token() != token:
            return None
        self._read = token
        state = copy.copy(self._registry)
        state.cached_registry_proto = proto
        state.cached_registry_proto_created = datetime.now(UTC)
        return state

    def reread(self) -> None:
        """Return the present state from the next `poll`, though it has not changed."""
        self._read = None

    def close(self) -> None:
        """Close its connections."""
        if self._registry is not None:
            self._registry.read_engine.dispose()

    def _open(self) -> NumberedRegistry:
        # one connection for all questions; to open an object takes a second one
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 2}
        if self._url.get_backend_name() == "postgresql":
            # few statements run twice, and a pooler between would lose what is prepared
            options["connect_args"] = {"connect_timeout": _CONNECT_TIMEOUT_S, "prepare_threshold": None}
            options["pool_pre_ping"] = True
        config = SqlRegistryConfig(
            path=self._url.render_as_string(hide_password=False),
            # 0: it is never due, so nothing that uses it reads it by itself
            cache_ttl_seconds=0,
            schema_mode="skip",
            sqlalchemy_config_kwargs=options,
        )
        # as Feast's own check, which leaves its connection open where tables are missing
        engine = create_engine(config.path, poolclass=NullPool, connect_args=options.get("connect_args", {}))
        with engine.connect() as connection:
            if missing := metadata.tables.keys() - set(inspect(connection).get_table_names()):
                raise FeastRegistrySchemaError(sorted(missing))
        registry = NumberedRegistry(config, self._project, None)
        if self._url.get_backend_name() == "postgresql":
            event.listen(registry.read_engine, "begin", _limit)
        return registry

    def _token(self) -> Hashable:
        """Differs from the last one if anything was written since."""
        backend = self._url.get_backend_name()
        if backend == "sqlite" and (name := self._url.database) and name != ":memory:":
            file = Path(name).stat()
            identity = file.st_dev, file.st_ino
            if self._seen is not None and identity != self._seen[:2]:  # type: ignore[index]
                # another file by this name: the connection has the one that was deleted
                self._registry.read_engine.dispose()
            with self._registry.read_engine.connect() as connection:
                return *identity, connection.execute(text("PRAGMA data_version")).scalar()
        # a row that is written has another xmin, within the same second, too
        version = "sum(xmin::text::bigint)" if backend == "postgresql" else "sum(last_updated_timestamp)"
        query = union_all(*(_count(table, version) for table in _TABLES))
        with self._registry.read_engine.connect() as connection:
            return tuple(tuple(map(str, row)) for row in connection.execute(query))


def _limit(connection: Connection) -> None:
    """In each transaction, as a pooler's sessions are not ours."""
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_MS}")


def _count(table: Any, version: str) -> Any:
    name = text(f"'{table.name}'")
    return select(name, func.count(), text(version)).select_from(table)


_log = structlog.get_logger(__name__)
_FIRST_WAIT_S: Final = 10.0
_RETRY_S: Final = 1.0
#: Seconds between two polls, and while the registry is changing.
_POLL_S: Final = 0.4
_CHANGING_POLL_S: Final = 0.1
#: How long a state in which services lack their views is not used: an apply may have been interrupted.
_INCOMPLETE_S: Final = 5.0
#: Queries that are kept.
_CAPACITY: Final = 1000
DEFAULT_SET: Final = "forecast_basic"
#: Of a view: what a materialization changes.
_OF_RUNS: Final = ("materialization_intervals", "last_updated_timestamp", "state")
#: Feast keeps what it listed last in variables of its own, which threads would mix up.
_RESOLVING: Final = threading.Lock()


class _RegistryState:
    """One state of the registry: its feature services, and the queries of them."""

    def __init__(self, config: RepoConfig, registry: Any) -> None:
        self._config = config
        self._registry = registry
        self._plans = Plans()
        with _RESOLVING:
            listed = registry.list_feature_services(config.project, allow_cache=True)
            views = registry.list_all_feature_views(config.project, allow_cache=True)
        self.services: dict[str, FeatureService] = {service.name: service for service in listed}
        tags = {view.name: tag for view in views if (tag := view.tags.get(MEANING_TAG)) is not None}
        self._meanings = meanings_by_name(self.services, tags)
        self.queries: dict[tuple[str | None, tuple[str, ...] | None], Query] = {}
        self._outputs = Outputs()
        #: of each service the stored views behind it; those that Feast cannot resolve are not in it
        self.stored_views: dict[str, list[str]] = {}
        for name, service in self.services.items():
            with suppress(FeastError), _RESOLVING:
                self.stored_views[name] = self._stored_views(service)

    @property
    def is_complete(self) -> bool:
        """Whether every service has its views."""
        return len(self.stored_views) == len(self.services)

    def equals(self, other: _RegistryState) -> bool:
        """Whether the definitions are the same, whatever was materialized since."""
        return bool(_definitions(self._registry) == _definitions(other._registry))

    def query(self, feature_set: str | None, names: tuple[str, ...] | None) -> Query:
        """See `Catalog.query`."""
        key = feature_set, names
        if (known := self.queries.get(key)) is not None:
            return known
        chosen = choose_features(self.services, self._meanings, feature_set, names, default=DEFAULT_SET)
        try:
            with _RESOLVING:
                plan = self._plans.get(
                    self._config, self._registry, self._config.project, chosen, full_names=False
                )
                entities = {
                    entity.join_key: entity
                    for entity in self._registry.list_entities(self._config.project, allow_cache=True)
                }
        except FeastError as error:
            raise BadInputError(
                f"These features cannot be asked for together: {error}",
                hint="Name a feature_set, or fewer features.",
            ) from error
        # names are the caller's, and labels must be few
        label = feature_set or (DEFAULT_SET if names is None else "any")
        if len(self.queries) >= _CAPACITY:
            self.queries.clear()
            self._outputs = Outputs()
        query = resolve(self._config, plan, label, names, entities, outputs=self._outputs)
        self.queries[key] = query
        return query

    def _stored_views(self, service: FeatureService) -> list[str]:
        found: dict[str, None] = {}
        for projection in service.feature_view_projections:
            view = self._registry.get_any_feature_view(
                projection.name, self._config.project, allow_cache=True
            )
            sources = getattr(view, "source_feature_view_projections", None)
            names = [projection.name] if sources is None else sorted({each.name for each in sources.values()})
            found |= dict.fromkeys(names)
        return list(found)


class Catalog:
    """Feature services and queries of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config: RepoConfig | None = None
        self._reader: RegistryWatcher | None = None
        self._state: _RegistryState | None = None
        self._tried = asyncio.Event()
        self._failure: AiHubError | None = None

    @property
    def config(self) -> RepoConfig:
        """The store's configuration."""
        if self._config is None:
            self._config = repo_config(self._settings)
        return self._config

    @property
    def loaded(self) -> bool:
        """Whether the registry was ever read."""
        return self._state is not None

    async def services(self) -> dict[str, FeatureService]:
        """Every feature service by its name.

        Raises:
            ServiceDownError: the registry was never read.
            SettingMissingError: there is none.
        """
        return (await self._wait_for_state()).services

    async def sets(self) -> list[tuple[FeatureService, list[str]]]:
        """Every feature service in the order of the names, and the stored views behind it.

        Raises:
            ServiceDownError: the registry was never read.
            SettingMissingError: there is none.
        """
        state = await self._wait_for_state()
        return [
            (service, state.stored_views.get(name, [])) for name, service in sorted(state.services.items())
        ]

    async def query(self, feature_set: str | None, names: Sequence[str] | None) -> Query:
        """The resolved query of a request.

        Raises:
            NotFoundError: there is no such set, or it has no such features; names those there are.
            BadInputError: this set cannot be answered, or sets differ in what a name means.
            ServiceDownError: the registry was never read.
        """
        key = None if names is None else tuple(names)
        state = self._state or await self._wait_for_state()
        if (known := state.queries.get((feature_set, key))) is not None:
            return known
        return state.query(feature_set, key)

    async def follow(self) -> None:
        """Poll the registry until cancelled."""
        # a thread of its own: the others are for requests
        with ThreadPoolExecutor(1, "registry") as pool:
            while True:
                pause = _RETRY_S
                try:
                    pause = await asyncio.get_running_loop().run_in_executor(pool, self._poll)
                    self._failure = None
                except AiHubError as error:
                    self._failure = error
                except (SQLAlchemyError, FeastRegistrySchemaError, OSError) as error:
                    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
                    self._log_failure(reason)
                except Exception as error:  # noqa: BLE001  # what is known goes on being used, whatever it is
                    _log.exception("registry.read_failed")
                    self._failure = _down(self._settings, f"{type(error).__name__}: {error}")
                if self._state is not None or self._failure is not None:
                    self._tried.set()
                await asyncio.sleep(pause)

    def close(self) -> None:
        """Close the connections to the registry; nothing may look at it any more."""
        if self._reader is not None:
            self._reader.close()

    async def _wait_for_state(self) -> _RegistryState:
        if self._state is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _FIRST_WAIT_S)
            if self._state is None:
                raise self._failure or _down(self._settings, "it was not read yet")
        return self._state

    def _poll(self) -> float:
        """Use a new state if there is one; returns the seconds until the next poll."""
        if self._reader is None:
            url = self._settings.require("feast_registry_uri")
            self._reader = RegistryWatcher(url, self.config.project)
        reader = self._reader
        registry = reader.poll()
        if registry is None:
            return _CHANGING_POLL_S if reader.is_changing else _POLL_S
        state = _RegistryState(self.config, registry)
        if not state.is_complete and self._state is not None and reader.changed_s < _INCOMPLETE_S:
            reader.reread()
            return _POLL_S
        if self._state is None or not state.equals(self._state):
            self._state = state
            _freeze()
        return _POLL_S

    def _log_failure(self, reason: str) -> None:
        failure = _down(self._settings, reason)
        if self._failure is None or self._failure.message != failure.message:
            _log.warning("registry.read_failed", reason=reason)
        self._failure = failure


@cache
def _freeze() -> None:
    """Search what this process has loaded by now for garbage no more; that would stop requests for 5 ms.

    Only once: what later states of the registry replace is to be freed.
    """
    gc.freeze()


def _definitions(registry: Any) -> Any:
    """What the registry says of features, without what changes as they are materialized."""
    proto = type(registry.cached_registry_proto)()
    proto.CopyFrom(registry.cached_registry_proto)
    for name in ("last_updated", "version_id"):
        proto.ClearField(name)
    for objects in (proto.feature_views, proto.stream_feature_views):
        for each in objects:
            for name in _OF_RUNS:
                each.meta.ClearField(name)
    return proto


def _down(settings: Settings, reason: str) -> ServiceDownError:
    place = make_url(settings.require("feast_registry_uri")).render_as_string(hide_password=True)
    return ServiceDownError("Feast's registry", place, reason)


@asynccontextmanager
async def open_catalog(settings: Settings) -> AsyncIterator[Catalog]:
    """A catalog that is kept up to date until it is closed."""
    catalog = Catalog(settings)
    with suppress(AiHubError):  # a missing setting is told to each request
        # imports the stores' classes before the first request
        _ = catalog.config.online_store, catalog.config.offline_store
    task = asyncio.create_task(catalog.follow(), name="registry")
    try:
        yield catalog
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        catalog.close()
