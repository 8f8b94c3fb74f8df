"""What a request asks for, resolved once: a plan of the online store, and what each name of the answer is."""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import copy
import re
from bisect import bisect
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from feast import FeatureService
from feast.value_type import ValueType

from ai_hub.errors import BadInputError
from ai_hub.features.lookups import Lookup, lookup_of
from ai_hub.serving.current import HOUR_NS
from feast_plugins.materialize import plan as materialize
from feast_plugins.materialize.plan import ViewPlan
from feast_plugins.online.plan import Plan, StoredView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast import Entity, FeatureView, OnDemandFeatureView, RepoConfig

    from ai_hub.serving.current import Moment


KEYS = ("tenant_id", "asset_id")
LOOKBACK_TAG = "lookback_hours"
#: Of an on-demand view; a function that uses the time or chance must not have it.
DETERMINISTIC_TAG = "deterministic"
LOCAL_TIME = "local_time"
#: Of a view: the time between two rows of an asset, such as 15min, 1h or 1d.
STEP_TAG = "step"
_STEP = re.compile(r"(\d{1,6})\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
#: Where a view does not say its step, rows may come at every such time: meters send at multiples of it.
_SHORTEST_NS = 300 * 10**9
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
    #: nanoseconds between two rows of an asset; None: it is not said
    step: int | None = HOUR_NS
    #: where the keys are found that are neither tenant nor asset
    lookups: tuple[Lookup, ...] = ()

    @property
    def name(self) -> str:
        """The same for all requests that read the same rows."""
        return self.stored.stamp_field.decode()

    @property
    def is_of_asset(self) -> bool:
        """Whether the rows of the source are those of assets."""
        return self.source is not None and set(self.source.keys) == set(KEYS)

    @property
    def window(self) -> int:
        """Nanoseconds of which requests share what is read: rows come at the multiples."""
        return HOUR_NS if self.step == HOUR_NS else _SHORTEST_NS

    def is_current(self, moment: Moment, stamp: int | None, computed: int | None = None) -> bool:
        """Whether a row of this time (ns), None: no row, is the newest there can be.

        `computed`: when it was put back (ns); None: it was materialized.
        """
        if self.step == HOUR_NS or stamp is None or moment.current_since is None:
            return moment.is_current(stamp, computed)
        if not moment.is_seen(stamp) or (computed is not None and computed < moment.put_back_since):
            return False
        if self.step is not None:
            return moment.nanos - stamp < self.step
        # nothing can have come since
        since = stamp if computed is None else computed
        return since - since % _SHORTEST_NS == moment.now - moment.now % _SHORTEST_NS


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


def resolve(
    config: RepoConfig,
    plan: Plan,
    label: str,
    names: Sequence[str] | None,
    entities: Mapping[str, Entity],
) -> Query:
    """The query of a plan.

    Args:
        config: of the store.
        plan: of the online store.
        label: for metrics.
        names: only these features, in this order; None: all.
        entities: by join key.

    Raises:
        BadInputError: the features are not those of a tenant's assets.
    """
    if plan.inputs:
        raise BadInputError(
            f"{_title(plan)} computes from what callers send ({', '.join(sorted(plan.inputs))}), "
            "which this endpoint does not take.",
            hint="Ask Feast's feature server for it.",
        )
    views = tuple(_view(config, plan, stored, entities) for stored in plan.views)
    plan = replace(
        plan,
        views=[view.stored for view in views],
        # as if every view had these two keys alone, see `_keyed_by_asset`
        join_keys=plan.join_keys | {key: key for key in KEYS},
        entity_types=dict.fromkeys(KEYS, ValueType.STRING) | plan.entity_types,
        _layouts={},
    )
    known = {feature.name: feature for feature in _features(plan)}
    chosen = known if names is None else dict.fromkeys(names)
    return Query(label, plan, views, tuple(known[name] for name in chosen))


def _title(plan: Plan) -> str:
    asked = plan.features
    return f"Feature set {asked.name}" if isinstance(asked, FeatureService) else "One of these features"


def _view(config: RepoConfig, plan: Plan, stored: StoredView, entities: Mapping[str, Entity]) -> View:
    view = stored.view
    keys = {plan.join_keys[name] for name in view.entities}
    source = materialize.plan(view, config)
    lookups: tuple[Lookup, ...] = ()
    if keys != set(KEYS) or view.projection.join_key_map:
        if view.projection.join_key_map or source is None or set(source.keys) != keys:
            raise BadInputError(
                f"{view.name} is not keyed by {' and '.join(KEYS)}, nor by what an asset has one of.",
                hint="This endpoint answers for the assets of a tenant; ask Feast's feature server for it.",
            )
        lookups = tuple(lookup_of(entities[key]) for key in sorted(keys.difference(KEYS)))
        stored = _keyed_by_asset(stored)
    fields = (
        ()
        if source is None
        else tuple((source.feature_field(name), kind) for name, kind in source.features.items())
    )
    local_time = None
    if source is not None and LOCAL_TIME in source.features:
        local_time = source.feature_field(LOCAL_TIME)
    return View(stored, source, fields, local_time, _step(view), lookups)


def _keyed_by_asset(stored: StoredView) -> StoredView:
    """The view as one whose rows are those of assets, which this service puts into Redis by itself.

    So a row that was read for one tenant is never found by another.
    """
    view = copy.copy(stored.view)
    view.entities = list(KEYS)
    return replace(stored, view=view)


def _step(view: FeatureView) -> int | None:
    """Nanoseconds between rows, as the view's tag says."""
    found = _STEP.fullmatch((view.tags or {}).get(STEP_TAG, "").strip())
    return None if found is None else int(found[1]) * _SECONDS[found[2]] * 10**9 or None


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
