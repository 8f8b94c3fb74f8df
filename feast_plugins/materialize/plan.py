"""What of a feature view is read and written, if it can go the fast way at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from feast import StreamFeatureView, ValueType
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStoreConfig, _versioned_fv_name

from feast_plugins.materialize.keys import is_exact
from feast_plugins.postgres import sources

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig

_KEY_VERSION = 3


@dataclass(frozen=True)
class ViewPlan:
    """Names are those of the feature view, columns those of its source."""

    #: of the view in Redis, with its version if those are kept apart
    name: str
    source: sources.Source
    #: by name, in the view's order
    keys: dict[str, ValueType]
    features: dict[str, ValueType]
    #: column by name where they differ
    columns: dict[str, str]
    ttl_seconds: int | None

    def column(self, name: str) -> str:
        """Column of a join key or feature."""
        return self.columns.get(name, name)

    @property
    def time_field(self) -> bytes:
        """Field of the hash with the event time."""
        return f"_ts:{self.name}".encode()

    def feature_field(self, name: str) -> bytes:
        """Field of the hash with a feature's value."""
        return bytes(_mmh3(f"{self.name}:{name}"))

    @property
    def identity(self) -> str:
        """The same for two plans that write the same of the same."""
        parts = [self.name, repr(self.source), self.columns, self.ttl_seconds]
        types = [[(name, kind.name) for name, kind in each.items()] for each in (self.keys, self.features)]
        return hashlib.sha256(json.dumps([*parts, *types]).encode()).hexdigest()

    def fits(self, schema: pa.Schema) -> bool:
        """Whether the columns read have types that can be encoded."""
        if any(isinstance(field.type, pa.BaseExtensionType) for field in schema):
            return False
        return all(is_exact(kind, schema.field(self.column(name)).type) for name, kind in self.keys.items())

    def is_resumable(self, schema: pa.Schema) -> bool:
        """Whether rows can be told to be new, and SQL can compare keys that were kept as JSON."""
        kinds = [schema.field(column).type for column in self.source.keys]
        return (
            self.source.created is not None
            and bool(kinds)
            and pa.types.is_timestamp(schema.field(self.source.created).type)
            and all(pa.types.is_string(kind) or pa.types.is_integer(kind) for kind in kinds)
        )


def plan(view: FeatureView, config: RepoConfig) -> ViewPlan | None:
    """How to materialize `view`; None if only Feast's own engine can."""
    source, online = view.batch_source, config.online_store
    if not (
        isinstance(source, PostgreSQLSource)
        and isinstance(config.offline_store, PostgreSQLOfflineStoreConfig)
        and isinstance(online, RedisOnlineStoreConfig)
        and config.entity_key_serialization_version == _KEY_VERSION
        and view.online
        and not view.offline
        and not _is_computed(view)
    ):
        return None
    columns = {name: column for column, name in (source.field_mapping or {}).items()}
    keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    features = {field.name: field.dtype.to_value_type() for field in view.features}
    created = source.created_timestamp_column
    return ViewPlan(
        name=_versioned_fv_name(view, config),
        source=sources.Source(
            relation=source.get_table_query_string(),
            keys=tuple(columns.get(name, name) for name in keys if name != DUMMY_ENTITY_ID),
            features=tuple(columns.get(name, name) for name in features),
            time=columns.get(source.timestamp_field, source.timestamp_field),
            created=columns.get(created, created) or None,
        ),
        keys=keys,
        features=features,
        columns=columns,
        ttl_seconds=online.key_ttl_seconds,
    )


def _is_computed(view: FeatureView) -> bool:
    """Whether rows are more than read: transformed, aggregated, filtered, validated or merged."""
    return isinstance(view, StreamFeatureView) or any(
        getattr(view, name, None)
        for name in ("feature_transformation", "aggregations", "filter", "enable_validation", "source_views")
    )
