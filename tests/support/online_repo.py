"""A feature repository that Feast's own Redis store and ours serve from the same registry and Redis."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.types import Float64, Int64, String

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from feast.online_response import OnlineResponse

STOCK = "redis"
OURS = "feast_plugins.online_store.CorrectableRedisOnlineStore"
TTL = timedelta(hours=3)
RECENT = datetime.now(UTC).replace(minute=0, second=0, microsecond=123456)
TENANT = Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING)
ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
METER = Entity(name="meter", join_keys=["meter_id"], value_type=ValueType.INT64)
ENTITIES = [TENANT, ASSET, METER]
KEY_FIELDS = {
    "tenant": Field(name="tenant_id", dtype=String),
    "asset": Field(name="asset_id", dtype=String),
    "meter": Field(name="meter_id", dtype=Int64),
}


def view(
    name: str,
    fields: Sequence[Field] = (),
    *,
    of: Sequence[Entity] = (TENANT, ASSET),
    ttl: timedelta | None = TTL,
    **more: Any,
) -> FeatureView:
    """A feature view; by default with one number, named like the view."""
    return FeatureView(
        name=name,
        entities=list(of),
        schema=[*(fields or [Field(name=name, dtype=Float64)]), *(KEY_FIELDS[each.name] for each in of)],
        source=FileSource(name=name, path=f"{name}.parquet", timestamp_field="event_timestamp"),
        ttl=ttl,
        **more,
    )


def open_store(
    folder: Path,
    connection: str,
    kind: str,
    project: str,
    *,
    cache_s: int = 60,
    in_file: bool = False,
    **online: Any,
) -> FeatureStore:
    """A store on the registry in `folder`: a database, or a file."""
    kind_of_registry = (
        {"path": str(folder / "registry.pb")}
        if in_file
        else {
            "registry_type": "sql",
            "path": f"sqlite:///{folder}/registry.db",
        }
    )
    return FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry={**kind_of_registry, "cache_ttl_seconds": cache_s},
            online_store={"type": kind, "connection_string": connection, **online},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


@dataclass
class Pair:
    """Both stores."""

    ours: FeatureStore
    stock: FeatureStore

    @classmethod
    def open(cls, folder: Path, connection: str, project: str | None = None, **online: Any) -> Pair:
        """Stores of a project that nobody else has."""
        project = project or f"p{secrets.token_hex(4)}"
        made = [open_store(folder, connection, kind, project, **online) for kind in (OURS, STOCK)]
        return cls(*made)

    def apply(self, *objects: Any) -> None:
        """Register the objects, and the entities."""
        self.ours.apply([*ENTITIES, *objects])
        self.stock.refresh_registry()

    def write(self, store: FeatureStore, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of a view; `at` is a row's event time (default: now)."""
        feature_view = store.get_feature_view(name)
        types = {field.name: field.dtype.to_value_type() for field in feature_view.schema}
        data = []
        for row in rows:
            values = {
                key: python_values_to_proto_values([value], types[key])[0]
                for key, value in row.items()
                if key != "at"
            }
            keys = {key: values.pop(key) for key in feature_view.join_keys if key in values}
            entity = EntityKey(join_keys=list(keys), entity_values=list(keys.values()))
            data.append((entity, values, row.get("at", RECENT), None))
        store.provider.online_store.online_write_batch(store.config, feature_view, data, None)

    def both(self, features: Any, entity_rows: Any, **options: Any) -> tuple[OnlineResponse, OnlineResponse]:
        """What our store answers, and Feast's own."""
        asked = {"features": features, "entity_rows": entity_rows, **options}
        return self.ours.get_online_features(**asked), self.stock.get_online_features(**asked)


def by_name(response: OnlineResponse) -> dict[str, Any]:
    """Values and times of a response; Feast's own order of features is that of a set."""
    names = response.proto.metadata.feature_names.val
    assert len(names) == len(response.proto.results)
    return {
        name: (list(vector.values), list(vector.event_timestamps))
        for name, vector in zip(names, response.proto.results, strict=True)
    }


def statuses(response: OnlineResponse) -> dict[str, list[str]]:
    """Statuses by feature."""
    found = response.proto
    kind = type(found.results[0]).DESCRIPTOR.fields_by_name["statuses"].enum_type
    return {
        name: [kind.values_by_number[status].name for status in vector.statuses]
        for name, vector in zip(found.metadata.feature_names.val, found.results, strict=True)
    }
