"""Online reads: the newest features of each asset, with their age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ai_hub.features.store import feature_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureService, FeatureStore

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
