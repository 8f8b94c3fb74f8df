"""Features as the endpoint sends them, and a cache of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from ai_hub.features.online.as_of import HOUR_NS
from ai_hub.times import from_nanos
from feast_plugins.online import protobuf
from feast_plugins.online.answer import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from datetime import datetime

    from ai_hub.features.online.query import Feature, Query
    from feast_plugins.online.answer import Column, ColumnarResponse

Value = TypeVar("Value")

REDIS, TIMESCALEDB, CALENDAR = "redis", "timescaledb", "calendar"
OUTSIDE_LOOKBACK, UNAVAILABLE = "OUTSIDE_LOOKBACK", "UNAVAILABLE"
_STATUS_NAMES: dict[int, str] = {value.number: value.name for value in FieldStatus.DESCRIPTOR.values}
#: After a low hit rate caching stops for this many times the capacity in lookups.
_COOLDOWN: Final = 10


@dataclass(slots=True)
class Origin:
    """Where an asset's rows came from. Views are given by index."""

    source: str = REDIS
    #: oldest event time of its rows (ns); None: there is none
    oldest: int | None = None
    #: reason why the answer is degraded, for metrics
    degraded: str | None = None
    #: views whose rows could not be read, of which only the calendar is known
    lost: frozenset[int] = frozenset()
    #: False: the database knows no such asset
    asset_exists: bool = True
    #: views without a row, and views whose row is past its time to live
    without_row: frozenset[int] = frozenset()
    too_old: frozenset[int] = frozenset()


class Payload(NamedTuple):
    """Features of an asset as they are sent. Shared between answers: do not change it."""

    features: dict[str, Any]
    feature_count: int
    status: dict[str, str]


class BoundedCache(Generic[Value]):
    """A cache of values that each count as one asset or more; it is cleared when it is full."""

    def __init__(self, capacity: int) -> None:
        """Hold values of `capacity` assets; 0: none."""
        self._capacity = capacity
        self._assets = 0
        self._hits = 0
        self._cooldown = 0
        self._values: dict[Hashable, Value] = {}

    def is_enabled(self, assets: int) -> bool:
        """Whether values of so many assets are looked up and put here now."""
        if self._cooldown > 0:
            self._cooldown -= assets
            return False
        return self._capacity > 0

    def get(self, key: Hashable, *, assets: int = 1) -> Value | None:
        """The value of a key, which counts as `assets`."""
        value = self._values.get(key)
        if value is not None:
            self._hits += assets
        return value

    def get_all(self, keys: Sequence[Hashable]) -> list[Value] | None:
        """The value of each key; None: one is missing."""
        values = self._values
        try:
            found = [values[key] for key in keys]
        except KeyError:
            return None
        self._hits += len(keys)
        return found

    def put(self, key: Hashable, value: Value, *, assets: int = 1) -> None:
        """Add a value that counts as `assets`."""
        if self._assets + assets > self._capacity:
            # with fewer hits than values, caching takes more time than it saves
            self._cooldown = 0 if self._hits > self._assets else _COOLDOWN * self._capacity
            self._values.clear()
            self._assets = self._hits = 0
        if key not in self._values:
            self._assets += assets
        self._values[key] = value


def keys_of(
    query: Query,
    tenant: str,
    assets: Sequence[str],
    replies: Sequence[Sequence[Any]],
    origins: Sequence[Origin],
    *,
    lookback_hours: int,
) -> list[Hashable]:
    """Cache keys of payloads: all that they depend on, with the rows' bytes in `replies` of Redis.

    On-demand views may use the entity keys, so these are part of it.
    """
    # requests with a longer look-back see the same features
    reach = query.reach_within(lookback_hours)
    return [
        (query, reach, tenant, asset, *reply, origin.without_row, origin.too_old)
        for asset, reply, origin in zip(assets, replies, origins, strict=True)
    ]


def render(
    query: Query, response: ColumnarResponse, origins: Sequence[Origin], *, lookback_hours: int
) -> list[Payload]:
    """The payload of each asset, in their order."""
    columns = dict(response.columns)
    values, statuses = [], []
    for feature in query.features:
        column, states = _column(query, feature, columns[feature.name], origins, lookback_hours)
        values.append(column)
        statuses.append(states)
    names = query.names
    return [
        Payload(
            dict(zip(names, row, strict=True)),
            len(row) - row.count(None),
            dict(zip(names, states, strict=True)),
        )
        for row, states in zip(zip(*values, strict=True), zip(*statuses, strict=True), strict=True)
    ]


def results(
    assets: Sequence[str], origins: Sequence[Origin], payloads: Sequence[Payload], *, computed_at: datetime
) -> list[dict[str, Any]]:
    """The result of each asset, in their order."""
    return [
        {
            "asset_id": asset,
            "features": payload.features,
            "feature_count": payload.feature_count,
            "status": payload.status,
            "hour": None if origin.oldest is None else from_nanos(origin.oldest - origin.oldest % HOUR_NS),
            "event_timestamp": None if origin.oldest is None else from_nanos(origin.oldest),
            "source": origin.source,
            "degraded": origin.degraded is not None,
            "computed_at": computed_at,
        }
        for asset, origin, payload in zip(assets, origins, payloads, strict=True)
    ]


def _column(
    query: Query, feature: Feature, column: Column, origins: Sequence[Origin], lookback_hours: int
) -> tuple[list[Any], list[str]]:
    """Values and statuses of a feature, for each asset."""
    if feature.reach > lookback_hours:
        return [None] * len(origins), [OUTSIDE_LOOKBACK] * len(origins)
    values = protobuf.python_values(column.values, query.plan.feature_types.get(feature.name))
    present = column.statuses.count(PRESENT)
    if present == len(values) and _are_finite(values):
        return values, [_STATUS_NAMES[PRESENT]] * present
    statuses = []
    for index, origin in enumerate(origins):
        status = column.statuses[index]
        if isinstance(value := values[index], float) and not isfinite(value):
            values[index], status = None, NULL_VALUE
        statuses.append(_status_name(feature, status, origin))
    return values, statuses


def _status_name(feature: Feature, status: int, origin: Origin) -> str:
    if status == PRESENT:
        return _STATUS_NAMES[status]
    if origin.lost.intersection(feature.views):
        return UNAVAILABLE
    if feature.is_computed and status == NULL_VALUE:  # then its views tell why
        if origin.without_row.intersection(feature.views):
            status = NOT_FOUND
        elif origin.too_old.intersection(feature.views):
            status = OUTSIDE_MAX_AGE
    return _STATUS_NAMES[status]


def _are_finite(values: Sequence[Any]) -> bool:
    return not any(isinstance(value, float) and not isfinite(value) for value in values)
