"""Relations that feature views read, opened to the service that serves them.

A service with the rights of one tenant at a time reads through views of the schema `tenant_wall`. Where a
database has it, `feast apply` makes these views for the tables that its sources name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import psycopg
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from psycopg import sql

from feast_plugins.postgres.session import open_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from feast import Entity, RepoConfig
    from feast.base_feature_view import BaseFeatureView

#: Tag of a source: tables of it without a column `tenant_id` are the same for every tenant.
SHARED_TAG: Final = "shared"
#: Tag of an entity: table with `tenant_id`, `asset_id` and the entity's key, which the asset determines.
LOOKUP_TAG: Final = "lookup"
_HAS_WALL: Final = "SELECT to_regprocedure('tenant_wall.serve_source(text, boolean)') IS NOT NULL"
_SERVE: Final = "SELECT relation, problem FROM tenant_wall.serve_source(%s, %s)"
_log = logging.getLogger(__name__)


def serve(config: RepoConfig, views: Iterable[BaseFeatureView], entities: Iterable[Entity]) -> None:
    """Let the service read what `views` and `entities` are read from; warns of what it may not read."""
    relations = _relations(views, entities)
    if not relations or not isinstance(config.offline_store, PostgreSQLOfflineStoreConfig):
        return
    try:
        with open_connection(config.offline_store) as connection:
            if connection.execute(_HAS_WALL).fetchone() != (True,):
                return
            for relation, (name, is_shared) in relations.items():
                _serve(connection, relation, name, is_shared=is_shared)
    except psycopg.Error as error:
        _log.warning("What feature views read could not be opened to the service: %s", _reason(error))


def _serve(connection: psycopg.Connection, relation: str, name: str, *, is_shared: bool) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            for table, problem in connection.execute(_SERVE, [relation, is_shared]):
                _log.warning("The service may not read %s of %s: %s.", table, name, problem)
    except psycopg.Error as error:
        _log.warning("The service may not read %s: %s", name, _reason(error))


def _relations(
    views: Iterable[BaseFeatureView], entities: Iterable[Entity]
) -> Mapping[str, tuple[str, bool]]:
    """What is read, with a name for people, and whether it may be shared."""
    found: dict[str, tuple[str, bool]] = {}
    for view in views:
        source = getattr(view, "batch_source", None)
        if isinstance(source, PostgreSQLSource):
            shared = (source.tags or {}).get(SHARED_TAG, "").lower() == "true"
            found[source.get_table_query_string()] = source.name, shared
    for entity in entities:
        if table := (entity.tags or {}).get(LOOKUP_TAG, "").strip():
            found.setdefault(sql.Identifier(table).as_string(), (table, False))
        elif entity.join_key not in {"tenant_id", "asset_id"}:
            # a column that assets may have got for it
            found.setdefault("assets", ("assets", False))
    return found


def _reason(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]
