"""What Feast's registry says is served, read without the stores behind it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import yaml
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

with warnings.catch_warnings():  # Feast switches the deprecation warnings of every library on
    from feast.errors import FeatureServiceNotFoundException
    from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistry, SqlRegistryConfig

from ai_hub import paths
from ai_hub.errors import ServiceDownError
from ai_hub.features.store import feature_names, feature_references
from ai_hub.settings import Settings

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
