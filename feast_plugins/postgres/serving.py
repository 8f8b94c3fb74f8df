"""Grants the service access to the relations that feature views read.

A service with the rights of one tenant at a time reads through views of the schema `tenant_wall`. Where a
database has that schema, `feast apply` creates these views for the tables that its sources name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import psycopg
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from psycopg import sql

from feast_plugins.offline.views import VERSIONS_TAG
from feast_plugins.postgres.session import open_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from feast import Entity, RepoConfig
    from feast.base_feature_view import BaseFeatureView

#: Tag of a source: its tables without a column `tenant_id` are shared by all tenants.
SHARED_TAG: Final = "shared"
#: Tag of an entity: table of `tenant_id`, `asset_id` and the entity's join key, which depends on the asset.
LOOKUP_TAG: Final = "lookup"
#: That of other entities.
DEFAULT_LOOKUP: Final = "assets"
_HAS_TENANT_SCOPE: Final = "SELECT to_regprocedure('tenant_wall.serve_source(text, boolean)') IS NOT NULL"
_SERVE: Final = "SELECT relation, problem FROM tenant_wall.serve_source(%s, %s)"
_log = logging.getLogger(__name__)


def serve(config: RepoConfig, views: Iterable[BaseFeatureView], entities: Iterable[Entity]) -> None:
    """Let the service read the relations of `views` and `entities`; log a warning of each that it may not."""
    relations = _relations(views, entities)
    if not relations or not isinstance(config.offline_store, PostgreSQLOfflineStoreConfig):
        return
    try:
        with open_connection(config.offline_store) as connection:
            if connection.execute(_HAS_TENANT_SCOPE).fetchone() != (True,):
                return
            for relation, (name, is_shared) in relations.items():
                _serve(connection, relation, name, is_shared=is_shared)
    except psycopg.Error as error:
        _log.warning("The service was not granted the relations of the feature views: %s", _reason(error))


def _serve(connection: psycopg.Connection, relation: str, name: str, *, is_shared: bool) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            for table, problem in connection.execute(_SERVE, [relation, is_shared]):
                _log.warning("The service may not read %s of %s: %s.", table, name, problem)
    except psycopg.Error as error:
        _log.warning("The service may not read %s: %s", name, _reason(error))


def lookup_table(entity: Entity) -> str | None:
    """Table in which a tenant's asset has the entity's join key; None: it is part of an asset's own key."""
    if entity.join_key in {"tenant_id", "asset_id"}:
        return None
    return (entity.tags or {}).get(LOOKUP_TAG, "").strip() or DEFAULT_LOOKUP


def _relations(
    views: Iterable[BaseFeatureView], entities: Iterable[Entity]
) -> Mapping[str, tuple[str, bool]]:
    """By relation: its name in messages, and whether all tenants share it."""
    relations: dict[str, tuple[str, bool]] = {}
    for view in views:
        source = getattr(view, "batch_source", None)
        if isinstance(source, PostgreSQLSource):
            shared = (source.tags or {}).get(SHARED_TAG, "").lower() == "true"
            relations[source.get_table_query_string()] = source.name, shared
            if versions := (source.tags or {}).get(VERSIONS_TAG):
                relations[f"({versions})"] = f"the versions of {source.name}", shared
    for entity in entities:
        if (table := lookup_table(entity)) is not None:
            relations.setdefault(sql.Identifier(table).as_string(), (table, False))
    return relations


def _reason(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]
