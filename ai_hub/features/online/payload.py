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


REDIS, TIMESCALEDB, CALENDAR = "redis", "timescaledb", "calendar"
OUTSIDE_LOOKBACK, UNAVAILABLE = "OUTSIDE_LOOKBACK", "UNAVAILABLE"
_NAMES: dict[int, str] = {value.number: value.name for value in FieldStatus.DESCRIPTOR.values}
#: Where what is kept is seldom asked for again, nothing is kept for so many times as many assets.
_REST: Final = 10


@dataclass(slots=True)
class Origin:
    """Where an asset's rows came from."""

    source: str = REDIS
    #: oldest time of its rows, in nanoseconds; None: some view has none
    oldest: int | None = None
    #: why it is less than usual: a word for metrics
    degraded: str | None = None
    #: places of views whose rows are lost; nothing but the calendar is known of them
    lost: frozenset[int] = frozenset()
    #: whether there is such an asset, as far as is known
    is_known: bool = True
    #: places of views without a row, and of those whose row is too old
    without_row: frozenset[int] = frozenset()
    too_old: frozenset[int] = frozenset()


class Rendered(NamedTuple):
    """Features of an asset as they are sent; nobody may change them."""

    features: dict[str, Any]
    feature_count: int
    status: dict[str, str]


def rendered(
    query: Query, response: ColumnarResponse, origins: Sequence[Origin], *, lookback_hours: int
) -> list[Rendered]:
    """Features of each asset, in its place."""
    columns = dict(response.columns)
    values, statuses = [], []
    for feature in query.features:
        found, states = _column(query, feature, columns[feature.name], origins, lookback_hours)
        values.append(found)
        statuses.append(states)
    names = query.names
    return [
        Rendered(
            dict(zip(names, row, strict=True)),
            len(row) - row.count(None),
            dict(zip(names, states, strict=True)),
        )
        for row, states in zip(zip(*values, strict=True), zip(*statuses, strict=True), strict=True)
    ]


def results(
    assets: Sequence[str], origins: Sequence[Origin], features: Sequence[Rendered], *, computed_at: datetime
) -> list[dict[str, Any]]:
    """The answer for each asset, in its place."""
    return [
        {
            "asset_id": asset,
            "features": each.features,
            "feature_count": each.feature_count,
            "status": each.status,
            "hour": None if origin.oldest is None else from_nanos(origin.oldest - origin.oldest % HOUR_NS),
            "event_timestamp": None if origin.oldest is None else from_nanos(origin.oldest),
            "source": origin.source,
            "degraded": origin.degraded is not None,
            "computed_at": computed_at,
        }
        for asset, origin, each in zip(assets, origins, features, strict=True)
    ]


def _column(
    query: Query, feature: Feature, column: Column, origins: Sequence[Origin], lookback_hours: int
) -> tuple[list[Any], list[str]]:
    if feature.reach > lookback_hours:
        return [None] * len(origins), [OUTSIDE_LOOKBACK] * len(origins)
    values = protobuf.python_values(column.values, query.plan.feature_types.get(feature.name))
    present = column.statuses.count(PRESENT)
    if present == len(values) and _are_finite(values):
        return values, [_NAMES[PRESENT]] * present
    statuses = []
    for place, origin in enumerate(origins):
        state = column.statuses[place]
        if isinstance(value := values[place], float) and not isfinite(value):
            values[place], state = None, NULL_VALUE
        statuses.append(_status(feature, state, origin))
    return values, statuses


def _status(feature: Feature, state: int, origin: Origin) -> str:
    if state == PRESENT:
        return _NAMES[state]
    if origin.lost.intersection(feature.views):
        return UNAVAILABLE
    if feature.is_computed and state == NULL_VALUE:  # from what its views have
        if origin.without_row.intersection(feature.views):
            state = NOT_FOUND
        elif origin.too_old.intersection(feature.views):
            state = OUTSIDE_MAX_AGE
    return _NAMES[state]


def _are_finite(values: Sequence[Any]) -> bool:
    return not any(isinstance(value, float) and not isfinite(value) for value in values)


Kept = TypeVar("Kept")


class Memo(Generic[Kept]):
    """Keeps things for so many assets; when there are more it begins anew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._assets = 0
        self._hits = 0
        self._resting = 0
        self._known: dict[Hashable, Kept] = {}

    def is_worth(self, assets: int) -> bool:
        """Whether to look for so many assets here, and to keep what is made of them."""
        if self._resting > 0:
            self._resting -= assets
            return False
        return self._most > 0

    def get(self, key: Hashable, *, assets: int = 1) -> Kept | None:
        """What was kept of so many assets by this key."""
        found = self._known.get(key)
        if found is not None:
            self._hits += assets
        return found

    def all(self, keys: Sequence[Hashable]) -> list[Kept] | None:
        """What was kept by each key; None: not all of it is there."""
        known = self._known
        try:
            found = [known[key] for key in keys]
        except KeyError:
            return None
        self._hits += len(keys)
        return found

    def put(self, key: Hashable, kept: Kept, *, assets: int = 1) -> None:
        """Keep something of so many assets."""
        if self._assets + assets > self._most:
            # keeping must be worth its while, or it takes more time than it saves
            self._resting = 0 if self._hits > self._assets else _REST * self._most
            self._known.clear()
            self._assets = self._hits = 0
        if key not in self._known:
            self._assets += assets
        self._known[key] = kept


def row_keys(
    query: Query,
    tenant: str,
    assets: Sequence[str],
    replies: Sequence[Sequence[Any]],
    origins: Sequence[Origin],
    *,
    lookback_hours: int,
) -> list[Hashable]:
    """Everything that the features of each asset follow from; `replies` are those of Redis."""
    # whoever looks further back than that sees the same
    reach = query.reach_within(lookback_hours)
    return [
        (query, reach, tenant, asset, *reply, origin.without_row, origin.too_old)
        for asset, reply, origin in zip(assets, replies, origins, strict=True)
    ]
