"""What a request asks for, resolved: which set has the features, where each is stored, and what is current.

A feature view may be keyed by what an asset determines, as prices are by the zone a meter is in. Which one an
asset has is in a table with the columns `tenant_id`, `asset_id` and the key: the one that the entity's tag
`lookup` names, or else `assets`.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from feast import FeatureService
from feast.value_type import ValueType
from psycopg import sql

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.store import feature_names
from ai_hub.times import to_nanos
from feast_plugins.materialize import plan as materialize
from feast_plugins.materialize.plan import ViewPlan
from feast_plugins.offline.on_demand import is_deterministic
from feast_plugins.online.connection import Commands
from feast_plugins.online.encoding import KeyGroup, Keys, string_parts
from feast_plugins.online.plan import Plan, StoredView
from feast_plugins.postgres.serving import DEFAULT_LOOKUP, lookup_table
from feast_plugins.windows.declarations import HORIZON_TAG

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from feast import Entity, FeatureView, OnDemandFeatureView, RepoConfig


HOUR_NS = 3600 * 10**9
#: Clocks of callers may be ahead by this much.
_SKEW = timedelta(minutes=5)
#: How long into an hour a read waits for the follower to bring the hour's rows.
_FOLLOWER_GRACE_NS = HOUR_NS // 2


class AsOf(NamedTuple):
    """The time that features are read as of."""

    time: datetime
    #: `time` and the start of its hour in nanoseconds since 1970
    nanos: int
    hour: int
    #: rows stamped from here on (ns) are current; None: a time in the past, which only history answers
    current_since: int | None
    #: time of the request (ns); `nanos` differs from it where the request gives a time
    now: int
    #: rows written back are current if they were computed from here on (ns)
    written_back_since: int
    #: the request gives a time in the past, after which no row may be used
    is_past: bool

    def is_current(self, stamp: int | None, computed: int | None = None) -> bool:
        """Whether a row needs no look at TimescaleDB.

        Args:
            stamp: event time of the row (ns); None: there is no row.
            computed: when it was computed, if it was written back (ns); None: it was materialized.
        """
        since = self.current_since
        return (
            since is not None
            and stamp is not None
            and since <= stamp
            and (stamp <= self.nanos or not self.is_past)
            and (computed is None or self.written_back_since <= computed)
        )

    def awaits_successor(self, stamp: int, computed: int | None) -> bool:
        """Whether a row of the hour before is used until the follower brings the next one.

        Otherwise every read would go to TimescaleDB at the turn of the hour.
        """
        return (
            self.current_since is not None
            and self.now % HOUR_NS < _FOLLOWER_GRACE_NS
            and self.hour - HOUR_NS <= stamp
            and self.is_visible(stamp)
            and (computed is None or self.written_back_since <= computed)
        )

    def is_visible(self, stamp: int) -> bool:
        """Whether a row of this event time (ns) existed then."""
        return stamp <= self.nanos or not self.is_past


def as_of(timestamp: datetime | None, now: datetime, cache_s: int) -> AsOf:
    """The time that a request at `now` asks about; without `timestamp`, the present.

    A time up to five minutes ahead is the present, because clocks differ. A row that was materialized is
    current for its hour, one that was written back for `cache_s` seconds. During the first `cache_s` seconds
    of an hour the row of the hour before is current, too: materialization takes a while.

    Raises:
        BadInputError: `timestamp` lies further ahead.
    """
    is_present = timestamp is None or now < timestamp <= now + _SKEW
    time = now if timestamp is None or is_present else timestamp
    if time > now:
        raise BadInputError(
            f"timestamp {time.isoformat()} lies in the future; the service's clock says {now.isoformat()}.",
            hint="Leave timestamp out for the present, or give a time in the past.",
        )
    now_ns = to_nanos(now)
    nanos = now_ns if time is now else to_nanos(time)
    hour, this_hour = nanos - nanos % HOUR_NS, now_ns - now_ns % HOUR_NS
    since = None
    if hour == this_hour:
        since = hour - HOUR_NS if now_ns - this_hour < cache_s * 10**9 else hour
    return AsOf(time, nanos, hour, since, now_ns, now_ns - cache_s * 10**9, not is_present)


# an asset with two of them has none: either would be a guess
_ONE = """\
SELECT asset_id, (array_agg({key}))[1] AS {key} FROM {table}
WHERE tenant_id = {tenant} AND asset_id = ANY({assets})
GROUP BY asset_id HAVING count(DISTINCT {key}) = 1"""


class Lookup(NamedTuple):
    """Where a key is found."""

    key: str
    table: str

    def query(self, tenant: sql.Composable, assets: sql.Composable) -> sql.Composed:
        """Query of the key of each of a tenant's assets that has exactly one."""
        return sql.SQL(_ONE).format(
            key=sql.Identifier(self.key), table=sql.Identifier(self.table), tenant=tenant, assets=assets
        )


def lookup_of(entity: Entity) -> Lookup:
    """Where an entity's key is found."""
    return Lookup(entity.join_key, lookup_table(entity) or DEFAULT_LOOKUP)


#: Tag of a view: features of one name in views with the same value of it are the same feature.
MEANING_TAG: Final = "meaning"
KEYS = ("tenant_id", "asset_id")
LOOKBACK_TAG = "lookback_hours"
LOCAL_TIME = "local_time"
#: Of a view: the time between two rows of an asset, such as 15min, 1h or 1d.
STEP_TAG = "step"
_STEP = re.compile(r"(\d{1,6})\s*(s|min|h|d)")
#: A local day may have 23 hours only.
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 23 * 3600}
#: Where a view does not say its step, rows may come at every such time: meters send at multiples of it.
_SHORTEST_NS = 300 * 10**9
_REACH = re.compile(r"_(\d+)h$")


class Meaning(NamedTuple):
    """What a feature's name stands for in a feature service."""

    #: the tag of the view, else the view, with its version if the service names one
    origin: str
    #: how the service renames join keys of the view
    join_keys: tuple[tuple[str, str], ...]


#: By name of a feature and by meaning: the view it comes from, by service.
Meanings = dict[str, dict[Meaning, dict[str, str]]]


def meanings_by_name(services: Mapping[str, FeatureService], tags: Mapping[str, str]) -> Meanings:
    """What each name of a feature means in each service; `tags` has the tags `meaning` of views."""
    found: Meanings = {}
    for name, service in services.items():
        for projection in service.feature_view_projections:
            version = getattr(projection, "version_tag", None)
            view = projection.name if version is None else f"{projection.name}@v{version}"
            join_keys = tuple(sorted((projection.join_key_map or {}).items()))
            meaning = Meaning(tags.get(projection.name, view) if version is None else view, join_keys)
            for feature in projection.features:
                found.setdefault(feature.name, {}).setdefault(meaning, {})[name] = view
    return found


def choose_features(
    services: Mapping[str, FeatureService],
    by_name: Meanings,
    feature_set: str | None,
    names: Sequence[str] | None,
    *,
    default: str,
) -> FeatureService | list[str]:
    """The service that has the features; for names without a feature set, references of features.

    Raises:
        NotFoundError: there is no such set, or it has no such features.
        BadInputError: a name alone means different things in different sets.
    """
    if feature_set is not None or names is None:
        name = feature_set or default
        if (found := services.get(name)) is None:
            raise NotFoundError(f"There is no feature set {name}.", hint=_list("Feature sets", services))
        if unknown := _missing(names or (), feature_names(found)):
            raise _unknown(unknown, feature_names(found), f"Feature set {name} does not have")
        return found
    if unknown := _missing(names, by_name):
        raise _unknown(unknown, by_name, "No feature set has")
    wanted = list(dict.fromkeys(names))
    if ambiguous := [name for name in wanted if len(by_name[name]) > 1]:
        raise _ambiguous(ambiguous, wanted, by_name)
    views = {name: _views(name, by_name) for name in wanted}
    # from the set that has most of them, so that few views are read; among equals the smallest
    ranked = sorted(
        {each for sets in views.values() for each in sets},
        key=lambda each: (
            -sum(each in sets for sets in views.values()),
            len(feature_names(services[each])),
            each,
        ),
    )
    return [f"{next(sets[each] for each in ranked if each in sets)}:{name}" for name, sets in views.items()]


def _views(name: str, by_name: Meanings) -> dict[str, str]:
    """The view of a feature that means the same in all services, by service."""
    ((meaning, views),) = by_name[name].items()
    if meaning.join_keys:
        named = min(views)
        raise BadInputError(
            f"{name} is of other keys in feature set {named}.", hint=f"Name the feature_set: {named}."
        )
    return views


def _ambiguous(ambiguous: Sequence[str], wanted: Sequence[str], by_name: Meanings) -> BadInputError:
    having = {name: sorted({each for sets in by_name[name].values() for each in sets}) for name in wanted}
    complete = set.intersection(*map(set, having.values()))
    listed = "; ".join(f"{name} in {', '.join(having[name])}" for name in ambiguous)
    one = "It is" if len(ambiguous) == 1 else "They are"
    hint = (
        f"Name one as feature_set: {', '.join(sorted(complete))}."
        if complete
        else "Name the feature_set, and ask for the features of each set by themselves."
    )
    return BadInputError(f"{one} from different views in different feature sets: {listed}.", hint=hint)


def _missing(names: Iterable[str], known: Iterable[str]) -> list[str]:
    there = set(known)
    return [name for name in dict.fromkeys(names) if name not in there]


def _unknown(names: Sequence[str], known: Iterable[str], who: str) -> NotFoundError:
    near = {match for name in names for match in get_close_matches(name, list(known), n=2)}
    hint = f"Did you mean {', '.join(sorted(near))}?" if near else _list("There are", known)
    return NotFoundError(f"{who} {', '.join(names)}.", hint=hint)


def _list(title: str, names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"{title}: {listed}." if listed else "None is registered yet: run `feast apply`."


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

    def is_current(self, as_of: AsOf, stamp: int | None, computed: int | None = None) -> bool:
        """Whether a row is the newest there can be.

        Args:
            as_of: the time asked about.
            stamp: event time of the row (ns); None: there is no row.
            computed: when it was computed, if it was written back (ns); None: it was materialized.
        """
        if self.step == HOUR_NS or stamp is None or as_of.current_since is None:
            return as_of.is_current(stamp, computed)
        if not as_of.is_visible(stamp) or (computed is not None and computed < as_of.written_back_since):
            return False
        if self.step is not None:
            return as_of.nanos - stamp < self.step
        # no row can have been added since
        since = stamp if computed is None else computed
        return since - since % _SHORTEST_NS == as_of.now - as_of.now % _SHORTEST_NS


#: Index in a reply, name and type of a feature.
Column = tuple[int, str, ValueType | None]
Picker = Callable[[Sequence[Any]], tuple[Any, ...]]


def picker(indexes: Sequence[int]) -> Picker:
    """What takes the elements with these indexes from a row."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda row: tuple([row[index] for index in indexes])


class Columns:
    """Columns of a reply: 64-bit floating-point numbers first, which are decoded together."""

    def __init__(self, columns: Iterable[Column]) -> None:
        self.all = sorted(columns, key=lambda column: column[2] != ValueType.DOUBLE)
        self.others = [column for column in self.all if column[2] != ValueType.DOUBLE]
        #: takes the first from a reply
        self.doubles = picker([index for index, _, kind in self.all if kind == ValueType.DOUBLE])


@dataclass(frozen=True)
class Feature:
    """A feature of the answer."""

    name: str
    #: how far it looks back, in hours
    reach: int
    #: the views it comes from, or is computed from: a bit for each index
    views: int


#: Number of a computation, and the bytes of each of its inputs.
OutputKey = tuple[int | bytes, ...]


class Outputs:
    """What deterministic on-demand views gave.

    Queries share it, so that its capacity is that of all of them; the oldest go first.
    """

    def __init__(self, capacity: int = 16_384) -> None:
        self._capacity = capacity
        self.kept: dict[OutputKey, tuple[Any, ...]] = {}
        self._numbers: dict[Hashable, int] = {}

    def number(self, computation: Hashable) -> int:
        """The number of a computation; equal ones have the same."""
        return self._numbers.setdefault(computation, len(self._numbers))

    def add(self, outputs: Mapping[OutputKey, tuple[Any, ...]]) -> None:
        """Keep these, too."""
        self.kept.update(outputs)
        for key in list(islice(self.kept, max(0, len(self.kept) - self._capacity))):
            del self.kept[key]


@dataclass(frozen=True, eq=False)
class Query:
    """Features of one set, or of several; equal to itself alone."""

    #: of the set, for metrics: `any` where none was named
    label: str
    plan: Plan
    views: tuple[View, ...]
    features: tuple[Feature, ...]
    #: of the store
    project: bytes
    #: what on-demand views gave; see `is_deterministic`
    outputs: Outputs

    def keys(self, tenant: str, assets: Sequence[str]) -> Keys:
        """Keys in Redis of the hashes that have the rows."""
        # join keys are in the order of their names: the asset, then the tenant
        (tenant_part,) = string_parts([tenant.encode()])
        parts = string_parts([asset.encode() for asset in assets])
        return Keys(self._group.prefix, parts, tenant_part + self.project)

    def commands(self, keys: Keys) -> Commands:
        """Commands that read them; each reply has the values of `fields`."""
        return Commands(self._group.commands(keys), len(keys.rows))

    @cached_property
    def _group(self) -> KeyGroup:
        """All views have the same keys, so one hash an asset."""
        (group,) = self.plan.layout(KEYS).groups
        return group

    @cached_property
    def is_deterministic(self) -> bool:
        """Whether equal inputs give equal on-demand features: each view says so of itself."""
        return all(each.is_python and is_deterministic(each.view) for each in self.plan.transforms)

    @cached_property
    def inputs(self) -> tuple[tuple[int, str, int, ValueType | None], ...]:
        """Declared inputs of the on-demand views: view, name, index in a reply, and type."""
        declared = {name for each in self.plan.transforms for names in each.inputs for name in names}
        views = sorted({view for each in self.plan.transforms for view in each.sources})
        return tuple(
            (view, name, index, kind)
            for view in views
            for index, name, kind in self.columns[view].all
            if name in declared
        )

    @cached_property
    def input_cells(self) -> Picker:
        """What takes the bytes of `inputs` from a reply."""
        return picker([index for _, _, index, _ in self.inputs])

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the features of the answer that on-demand views give."""
        asked = set(self.names)
        return tuple(name for each in self.plan.transforms for _, _, name, _ in each.outputs if name in asked)

    @cached_property
    def computation(self) -> int:
        """Number in `outputs` of what gives `output_names` from `inputs`."""
        views = tuple(
            (each.view.name, getattr(each.view.projection, "version_tag", None), tuple(each.outputs))
            for each in self.plan.transforms
        )
        inputs = tuple((self.views[view].name, name, kind) for view, name, _, kind in self.inputs)
        return self.outputs.number((views, inputs, self.output_names))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def columns(self) -> tuple[Columns, ...]:
        """For each view the columns of its features."""
        return tuple(
            Columns(
                (self.fields.index(field), name, kind)
                for field, name, kind in zip(
                    view.stored.fields, view.stored.names, view.stored.types, strict=True
                )
            )
            for view in self.views
        )

    @cached_property
    def sent_columns(self) -> Columns:
        """Columns of the features of the answer that are stored."""
        sent = {(view, name) for name, view, _ in self.plan.results if name in self.names}
        return Columns(
            column
            for view, columns in enumerate(self.columns)
            for column in columns.all
            if (view, column[1]) in sent
        )

    def picked(self, lookback_hours: int) -> Picker:
        """What takes the features of the answer, in order, from `sent_columns`, `output_names` and a None.

        Features that look further back are the None.
        """
        # requests choose any number of hours, and features look back a few ones
        reach = bisect_right(self._reaches, lookback_hours)
        if (pick := self._picked.get(reach)) is None:
            names = [*(name for _, name, _ in self.sent_columns.all), *self.output_names]
            places = {name: names.index(name) for name in names}
            pick = self._picked[reach] = picker(
                [
                    len(names) if feature.reach > lookback_hours else places[feature.name]
                    for feature in self.features
                ]
            )
        return pick

    @cached_property
    def _reaches(self) -> list[int]:
        return sorted({feature.reach for feature in self.features})

    @cached_property
    def _picked(self) -> dict[int, Picker]:
        return {}

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """Fields of each reply, in their order."""
        return tuple(self._group.fields)

    @cached_property
    def stamps(self) -> Picker:
        """What takes each view's time from a reply."""
        return picker([self.fields.index(view.stored.stamp_field) for view in self.views])

    @cached_property
    def issue_view(self) -> int | None:
        """The first view with a horizon, whose rows have times of issue; None: there is none."""
        views = (
            index for index, view in enumerate(self.views) if HORIZON_TAG in (view.stored.view.tags or {})
        )
        return next(views, None)

    @cached_property
    def field_indexes(self) -> tuple[tuple[tuple[int, bytes], ...], ...]:
        """For each view the index in a reply and the name of each field, its time among them."""
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
    *,
    outputs: Outputs,
) -> Query:
    """The query of a plan.

    Args:
        config: of the store.
        plan: of the online store.
        label: for metrics.
        names: only these features, in this order; None: all.
        entities: by join key.
        outputs: that the query shares.

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
    features = tuple(known[name] for name in chosen)
    return Query(label, plan, views, features, config.project.encode(), outputs)


def _title(plan: Plan) -> str:
    asked = plan.features
    return f"Feature set {asked.name}" if isinstance(asked, FeatureService) else "One of these features"


def _view(config: RepoConfig, plan: Plan, stored: StoredView, entities: Mapping[str, Entity]) -> View:
    view = stored.view
    keys = {plan.join_keys[name] for name in view.entities}
    # what a view with a horizon has is computed where rows are materialized
    source = None if HORIZON_TAG in (view.tags or {}) else materialize.plan(view, config)
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
    """The view keyed by tenant and asset, whose rows only this service writes to Redis.

    So no tenant reads a row that was written for another.
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
    for name, number, index in plan.results:
        if number is not None:
            stored = plan.views[number]
            tags = _tags(stored.view, stored.features[index])
            found.append(Feature(name, _reach(name, tags), 1 << number))
        elif (view := on_demand.get(name)) is not None:
            sources = {each.name for each in view.source_feature_view_projections.values()}
            views = sum(
                1 << index
                for index, stored in enumerate(plan.views)
                if stored.view.projection.name in sources
            )
            found.append(Feature(name, _reach(name, _tags(view, name)), views))
    return found


def _tags(view: FeatureView | OnDemandFeatureView, name: str) -> dict[str, str]:
    return next((dict(each.tags or {}) for each in view.features if each.name == name), {})


def _reach(name: str, tags: dict[str, str]) -> int:
    """Hours a feature looks back: as its field's tag says, else as its name does."""
    if (tagged := tags.get(LOOKBACK_TAG, "")).isdigit():
        return int(tagged)
    found = _REACH.search(name)
    return int(found[1]) if found else 0
