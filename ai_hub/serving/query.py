"""What a request asks for, resolved once: a plan of the online store, and what each name of the answer is."""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from feast import FeatureService
from feast.value_type import ValueType

from ai_hub.errors import BadInputError
from feast_plugins.materialize import plan as materialize
from feast_plugins.materialize.plan import ViewPlan
from feast_plugins.online.plan import Plan, StoredView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureView, OnDemandFeatureView, RepoConfig


KEYS = ("tenant_id", "asset_id")
LOOKBACK_TAG = "lookback_hours"
#: Of an on-demand view; a function that uses the time or chance must not have it.
DETERMINISTIC_TAG = "deterministic"
LOCAL_TIME = "local_time"
_REACH = re.compile(r"_(\d+)h$")


@dataclass(frozen=True)
class View:
    """A stored view of the plan, and how to read it from TimescaleDB (None: it cannot be)."""

    stored: StoredView
    source: ViewPlan | None
    #: for each feature of the source its field in Redis and its type
    fields: tuple[tuple[bytes, ValueType], ...]
    #: field of the local time, from which the calendar is computed; None: it has none
    local_time: bytes | None

    @property
    def name(self) -> str:
        """The same for all requests that read the same rows."""
        return self.stored.stamp_field.decode()


@dataclass(frozen=True)
class Feature:
    """A feature of the answer."""

    name: str
    #: hours it looks back
    reach: int
    #: places of the views it comes from, or is computed from
    views: tuple[int, ...]
    is_computed: bool


@dataclass(frozen=True, eq=False)
class Query:
    """Features of one set, or of several; equal to itself alone."""

    #: of the set, for metrics: `any` where none was named
    label: str
    plan: Plan
    views: tuple[View, ...]
    features: tuple[Feature, ...]

    @cached_property
    def is_deterministic(self) -> bool:
        """Whether the same rows give the same features: every on-demand view says so of itself."""
        return all((view.tags or {}).get(DETERMINISTIC_TAG) == "true" for view in self.plan.on_demand)

    def reach_within(self, lookback_hours: int) -> int:
        """Hours that the features look back of which a request may see."""
        place = bisect(self._reaches, lookback_hours)
        return self._reaches[place - 1] if place else 0

    @cached_property
    def _reaches(self) -> list[int]:
        return sorted({feature.reach for feature in self.features})

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """Fields of each reply, in their order; all views have the same keys, so one hash an asset."""
        (group,) = self.plan.layout(KEYS).groups
        return tuple(group.fields)

    @cached_property
    def stamps(self) -> tuple[int, ...]:
        """Place of the time of each view in a reply."""
        return tuple(self.fields.index(view.stored.stamp_field) for view in self.views)

    @cached_property
    def places(self) -> tuple[tuple[tuple[int, bytes], ...], ...]:
        """For each view the places of its fields in a reply, its time among them."""
        return tuple(
            tuple((self.fields.index(name), name) for name in (*view.stored.fields, view.stored.stamp_field))
            for view in self.views
        )


def resolve(config: RepoConfig, plan: Plan, label: str, names: Sequence[str] | None) -> Query:
    """The query of a plan; `names`: only these features, in this order.

    Raises:
        BadInputError: the features are not those of a tenant's assets alone.
    """
    if plan.inputs:
        raise BadInputError(
            f"{_title(plan)} computes from what callers send ({', '.join(sorted(plan.inputs))}), "
            "which this endpoint does not take.",
            hint="Ask Feast's feature server for it.",
        )
    for stored in plan.views:
        keys = {plan.join_keys[name] for name in stored.view.entities}
        if keys != set(KEYS) or stored.view.projection.join_key_map:
            raise BadInputError(
                f"{stored.view.name} is not keyed by {' and '.join(KEYS)}.",
                hint="This endpoint answers for the assets of a tenant; ask Feast's feature server for it.",
            )
    views = tuple(_view(config, stored) for stored in plan.views)
    known = {feature.name: feature for feature in _features(plan)}
    chosen = known if names is None else dict.fromkeys(names)
    return Query(label, plan, views, tuple(known[name] for name in chosen))


def _title(plan: Plan) -> str:
    asked = plan.features
    return f"Feature set {asked.name}" if isinstance(asked, FeatureService) else "One of these features"


def _view(config: RepoConfig, stored: StoredView) -> View:
    source = materialize.plan(stored.view, config)
    fields = (
        ()
        if source is None
        else tuple((source.feature_field(name), kind) for name, kind in source.features.items())
    )
    local_time = None
    if source is not None and LOCAL_TIME in source.features:
        local_time = source.feature_field(LOCAL_TIME)
    return View(stored, source, fields, local_time)


def _features(plan: Plan) -> list[Feature]:
    on_demand = {
        name: view
        for view in plan.on_demand
        for each in view.features
        for name in (each.name, f"{view.projection.name_to_use()}__{each.name}")
    }
    found = []
    for name, number, place in plan.results:
        if number is not None:
            stored = plan.views[number]
            tags = _tags(stored.view, stored.features[place])
            found.append(Feature(name, _reach(name, tags), (number,), is_computed=False))
        elif (view := on_demand.get(name)) is not None:
            sources = {each.name for each in view.source_feature_view_projections.values()}
            places = tuple(
                at for at, stored in enumerate(plan.views) if stored.view.projection.name in sources
            )
            found.append(Feature(name, _reach(name, _tags(view, name)), places, is_computed=True))
    return found


def _tags(view: FeatureView | OnDemandFeatureView, name: str) -> dict[str, str]:
    return next((dict(each.tags or {}) for each in view.features if each.name == name), {})


def _reach(name: str, tags: dict[str, str]) -> int:
    """Hours a feature looks back: as its field's tag says, else as its name does."""
    if (tagged := tags.get(LOOKBACK_TAG, "")).isdigit():
        return int(tagged)
    found = _REACH.search(name)
    return int(found[1]) if found else 0
