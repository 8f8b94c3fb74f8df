"""The feature store that `feature_repo/feature_store.yaml` describes."""

from __future__ import annotations

import logging
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import yaml

with warnings.catch_warnings():  # Feast switches the deprecation warnings of every library on
    from feast import FeatureStore, RepoConfig
    from feast.errors import FeatureServiceNotFoundException

from ai_hub import paths
from ai_hub.errors import NotFoundError, SettingMissingError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from feast import FeatureService

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
