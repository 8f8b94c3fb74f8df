"""The feature store of `feature_repo/feature_store.yaml`: its registry, and its rows and keys in Redis."""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import yaml
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ai_hub import paths
from ai_hub.db.tenant_scope import ENTER, service_dsn
from ai_hub.errors import NotFoundError, ServiceDownError, SettingMissingError
from ai_hub.names import check_tenant
from ai_hub.settings import Settings
from ai_hub.times import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from feast import FeatureService, FeatureStore
    from redis import Redis


with warnings.catch_warnings():  # Feast switches the deprecation warnings of every library on
    from feast import RepoConfig
    from feast.errors import FeatureServiceNotFoundException

    from feast_plugins.registry import Store


_VARIABLE = re.compile(r"\$\{(\w+)\}")
#: The setting a person sets, where the variable is derived from another one.
_ORIGIN = {"FEAST_REDIS_CONNECTION": "REDIS_URL"} | dict.fromkeys(
    ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE"), "TIMESCALE_DSN"
)


def open_store(settings: Settings | None = None, *, known_at: datetime | None = None) -> FeatureStore:
    """Open the store with the project's settings, whatever the process's environment holds.

    With `known_at`, history is that which was known at this time, whatever was corrected later.

    Raises:
        SettingMissingError: a server it needs is neither configured nor running.
    """
    return Store(config=repo_config(settings, known_at=known_at))


def open_tenant_store(
    settings: Settings, tenant: str, *, known_at: datetime | None = None, limit_s: float | None = None
) -> FeatureStore:
    """Open the store with the service's login, its history read inside the tenant scope.

    Statements of it that take longer than `limit_s` fail; None: those of `feature_store.yaml`.

    Raises:
        SettingMissingError: a server it needs is neither configured nor running.
    """
    own = settings.model_copy(update={"timescale_dsn": SecretStr(service_dsn(settings))})
    config = repo_config(own, known_at=known_at)
    enter = sql.SQL(ENTER.replace("%s", "{}")).format(sql.Literal(check_tenant(tenant)))
    config.offline_store.transaction_start = enter.as_string(None)
    if limit_s is not None:
        config.offline_store.statement_timeout_s = limit_s
    return Store(config=config)


def repo_config(settings: Settings | None = None, *, known_at: datetime | None = None) -> RepoConfig:
    """What `open_store` opens; no server is asked.

    Raises:
        SettingMissingError: a server it needs is neither configured nor running.
    """
    folder = paths.resource("feature_repo")
    raw = yaml.safe_load((folder / "feature_store.yaml").read_text())
    variables = os.environ | (settings or Settings()).environment()
    raw = _substitute(raw, variables)
    if known_at is not None:
        raw["offline_store"]["known_at"] = known_at
    config = RepoConfig(**raw)
    config.repo_path = folder
    # SQLAlchemy's own dialects are announced at every start
    logging.getLogger("feast.infra.registry").setLevel(logging.WARNING)
    return config


def _substitute(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace `${NAME}` inside parsed values, so no password can break the YAML around it."""
    if isinstance(value, dict):
        return {key: _substitute(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, variables) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _lookup(match[1], variables), value)
    return value


def _lookup(name: str, variables: Mapping[str, str]) -> str:
    if name not in variables:
        raise SettingMissingError(_ORIGIN.get(name, name))
    return variables[name]


def get_service(store: FeatureStore, name: str) -> FeatureService:
    """Feature service `name`.

    Raises:
        NotFoundError: it is not registered; names those that are.
    """
    try:
        return store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        known = ", ".join(sorted(service.name for service in store.list_feature_services()))
        raise NotFoundError(
            f"There is no feature service {name!r}.",
            hint=f"Registered: {known}."
            if known
            else 'None is registered yet: run `eval "$(ai-hub env)"`, then `feast apply`.',
        ) from error


def stored_views(store: FeatureStore, service: FeatureService) -> tuple[str, ...]:
    """Views of the service that are relations in TimescaleDB; those computed on demand are of their rows."""
    views = (
        store.registry.get_any_feature_view(projection.name, store.project)
        for projection in service.feature_view_projections
    )
    return tuple(view.name for view in views if getattr(view, "batch_source", None))


def feature_names(service: FeatureService) -> list[str]:
    """The service's features, in its order."""
    return [field.name for view in service.feature_view_projections for field in view.features]


def feature_references(service: FeatureService) -> list[str]:
    """The service's features as `view:feature`, in its order."""
    return [
        f"{view.name_to_use()}:{field.name}"  # type: ignore[no-untyped-call]
        for view in service.feature_view_projections
        for field in view.features
    ]


JOIN_KEYS = ("tenant_id", "asset_id")


@dataclass(frozen=True)
class OnlineRow:
    """Newest features of one asset."""

    asset_id: str
    #: start of the hour the features describe; None: nothing is stored
    hour: datetime | None
    #: how old `hour` may be; None: unlimited
    ttl: timedelta | None
    features: dict[str, float | None]

    @property
    def missing(self) -> list[str]:
        """Features without a value."""
        return [name for name, value in self.features.items() if value is None]

    def is_stale(self, now: datetime) -> bool:
        """Whether the features are too old to describe `now`."""
        return self.hour is not None and self.ttl is not None and now - self.hour > self.ttl


def read_online(
    store: FeatureStore, service: FeatureService, tenant: str, assets: Sequence[str]
) -> list[OnlineRow]:
    """Newest features of `assets`, in their order.

    An asset that Redis does not know has no `hour` and every feature missing.
    """
    if not assets:
        return []
    keys = [{"tenant_id": tenant, "asset_id": asset} for asset in assets]
    response = store.get_online_features(features=service, entity_rows=keys)
    values = response.to_dict()
    names = feature_names(service)
    hours = _hours(response, len(assets))
    ttl = _ttl(store, service)
    return [
        OnlineRow(asset, hours[position], ttl, {name: values[name][position] for name in names})
        for position, asset in enumerate(assets)
    ]


def _hours(response: object, count: int) -> list[datetime | None]:
    """Oldest event time of each row; on-demand features carry none."""
    proto = response.proto  # type: ignore[attr-defined]  # Feast's OnlineResponse
    stamps = [
        [vector.event_timestamps[position].seconds for vector in proto.results] for position in range(count)
    ]
    return [
        datetime.fromtimestamp(min(known), UTC) if (known := [s for s in row if s]) else None
        for row in stamps
    ]


def _ttl(store: FeatureStore, service: FeatureService) -> timedelta | None:
    """Shortest time to live of the service's stored views."""
    views = {view.name: view.ttl for view in store.list_feature_views()}
    ttls = (views.get(view.name) for view in service.feature_view_projections)
    return min((ttl for ttl in ttls if ttl), default=None)


#: Seconds after which a follower that has not reported is taken for stopped.
ALIVE_S: Final = 600


def online_client(store: FeatureStore) -> Any:
    """The store's own client of Redis, whatever kind of servers there is."""
    online: Any = store._get_provider().online_store  # noqa: SLF001  # Feast has no public way to it
    return online._get_client(store.config.online_store)  # noqa: SLF001


def asset_key(store: FeatureStore, tenant: str, asset: str) -> bytes:
    """Key of the hash in Redis that has the rows of all views of an asset."""
    values = [Value(string_val=tenant), Value(string_val=asset)]
    key = EntityKey(join_keys=list(JOIN_KEYS), entity_values=values)
    encoded: bytes = _redis_key(store.project, key, store.config.entity_key_serialization_version)
    return encoded


def followed_key(project: str) -> bytes:
    """Key of the hour up to which the follower has brought all rows, in seconds since 1970."""
    return f"ai_hub:followed:{project}".encode()


def set_followed(client: Redis, project: str, time: datetime) -> None:
    """Note that all rows of hours that had begun at `time` are in Redis."""
    seconds = round((time - EPOCH).total_seconds())
    client.set(followed_key(project), seconds - seconds % 3600, ex=ALIVE_S)


def negative_key(project: str, stamp_field: str, tenant: str, asset: str) -> bytes:
    """Key of the entry that an asset has no newer row; names of tenants and views have no `:`."""
    return f"ai_hub:looked:{project}:{stamp_field}:{tenant}:{asset}".encode()


def negative_pattern(project: str, tenant: str) -> bytes:
    """Pattern for SCAN of all of a tenant's negative-cache entries."""
    return f"ai_hub:looked:{project}:_ts:*:{tenant}:*".encode()


def delete_assets(store: FeatureStore, tenant: str, assets: Iterable[str]) -> None:
    """Delete the rows and negative-cache entries of assets, of every feature view of the project."""
    with online_client(store).pipeline(transaction=False) as pipe:
        for asset in assets:
            pipe.unlink(asset_key(store, tenant, asset))
            for view in store.list_feature_views():
                pipe.unlink(negative_key(store.project, f"_ts:{view.name}", tenant, asset))
        pipe.execute()


with warnings.catch_warnings():  # Feast switches the deprecation warnings of every library on
    from feast.errors import FeatureServiceNotFoundException
    from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistry, SqlRegistryConfig

_CONNECT_TIMEOUT_S: Final = 5
_TITLE: Final = "Feast's registry"


@dataclass(frozen=True)
class ServedService:
    """A feature service, and every column that asking it for features can give."""

    name: str
    #: the features under both names Feast gives them, the join keys, and the time
    columns: frozenset[str]


def find_service(name: str, settings: Settings | None = None) -> ServedService | None:
    """Feature service `name` as it was applied last; None when there is none.

    Raises:
        SettingMissingError: no registry is configured.
        ServiceDownError: the registry does not answer, or nothing was ever applied to it.
    """
    url = (settings or Settings()).require("feast_registry_uri")
    try:
        registry, project = _registry(url)
        try:
            service = registry.get_feature_service(name, project)
        except FeatureServiceNotFoundException:
            return None
        keys = {entity.join_key for entity in registry.list_entities(project)}
    except (SQLAlchemyError, FeastRegistrySchemaError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        place = make_url(url).render_as_string(hide_password=True)
        raise ServiceDownError(_TITLE, place, reason) from error
    long_names = {reference.replace(":", "__") for reference in feature_references(service)}
    return ServedService(name, frozenset({*feature_names(service), *long_names, *keys, "event_timestamp"}))


@lru_cache(maxsize=2)
def _registry(url: str) -> tuple[Any, str]:
    """A registry to read from, and the project; opening it reads all of it, so it is kept."""
    raw = yaml.safe_load((paths.resource("feature_repo") / "feature_store.yaml").read_text())
    # asked too seldom to keep connections
    options: dict[str, Any] = {"poolclass": NullPool}
    if make_url(url).get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": _CONNECT_TIMEOUT_S, "prepare_threshold": None}
    # who only reads may lack the right to create tables
    config = SqlRegistryConfig(path=url, schema_mode="verify", sqlalchemy_config_kwargs=options)
    logging.getLogger("feast.infra.registry").setLevel(logging.WARNING)
    project = str(raw["project"])
    return SqlRegistry(config, project, None), project
