"""The feature store that `feature_repo/feature_store.yaml` describes, and reads from Redis through it."""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import yaml

from ai_hub import paths
from ai_hub.errors import NotFoundError, SettingMissingError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast import FeatureService

with warnings.catch_warnings():  # Feast switches the deprecation warnings of every library on
    from feast import FeatureStore, RepoConfig
    from feast.errors import FeatureServiceNotFoundException


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
    return FeatureStore(config=repo_config(settings, known_at=known_at))


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
