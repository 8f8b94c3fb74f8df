"""Answers of online stores and contents of Redis, as plain data."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import redis
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.type_map import feast_value_type_to_python_type

if TYPE_CHECKING:
    from conformance.stores import Hosts
    from feast import FeatureStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PRESENT, NULL = "PRESENT", "NULL_VALUE"
NOT_FOUND, EXPIRED = "NOT_FOUND", "OUTSIDE_MAX_AGE"


@dataclass(frozen=True)
class Cell:
    """What an answer says of one feature of one entity."""

    value: Any
    status: str
    time: datetime


Answer = dict[str, list[Cell]]


def read(
    store: FeatureStore,
    features: list[str] | str,
    keys: list[dict[str, Any]],
    *,
    full: bool = False,
    in_loop: bool = False,
) -> Answer:
    """Features of each key; `in_loop` asks the asynchronous method."""
    asked = store.get_feature_service(features) if isinstance(features, str) else features
    if in_loop:
        found = asyncio.run(_read(store, features=asked, entity_rows=keys, full_feature_names=full))
    else:
        found = store.get_online_features(features=asked, entity_rows=keys, full_feature_names=full)
    names = found.proto.metadata.feature_names.val
    return {name: _cells(vector) for name, vector in zip(names, found.proto.results, strict=True)}


async def _read(store: FeatureStore, **options: Any) -> Any:
    try:
        return await store.get_online_features_async(**options)
    finally:
        await store.close()
        online = store._get_provider().online_store
        if left_open := getattr(online, "_client_async", None):  # by stock
            online._client_async = None
            await left_open.aclose()


def _cells(vector: Any) -> list[Cell]:
    return [
        Cell(
            feast_value_type_to_python_type(value),
            FieldStatus.Name(status),
            _EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos / 1000),
        )
        for value, status, time in zip(vector.values, vector.statuses, vector.event_timestamps, strict=True)
    ]


def client(hosts: Hosts, db: int) -> redis.Redis[bytes]:
    """A plain client of one of Redis's databases."""
    return redis.Redis.from_url(hosts.redis_at(db))


def contents(hosts: Hosts, db: int) -> dict[bytes, dict[bytes, bytes]]:
    """Every key of a database with its fields."""
    with client(hosts, db) as connection:
        return {key: connection.hgetall(key) for key in connection.scan_iter()}
