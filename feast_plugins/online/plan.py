"""What a request means: resolved once by Feast, kept until its registry changes.

A plan says how entity rows with certain columns become commands, and where in the replies each feature is.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from feast import FeatureService, FeatureView, OnDemandFeatureView, utils
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import _versioned_fv_name
from feast.value_type import ValueType

from feast_plugins.online import encoding
from feast_plugins.online.encoding import KeyGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from feast import RepoConfig
    from feast.infra.registry.base_registry import BaseRegistry

    Features = list[str] | FeatureService


@dataclass(frozen=True, slots=True)
class ViewIndexes:
    """Where the replies hold a view: the group of encoding, and indexes in the replies of its hashes."""

    group: int
    features: list[int]
    stamp: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How entity rows with certain columns are read."""

    #: column, join key and type of what is part of keys
    join_keys: list[tuple[str, str, ValueType]]
    #: column and type of inputs of on-demand views
    inputs: list[tuple[str, ValueType]]
    groups: list[KeyGroup]
    views: list[ViewIndexes]


def lay_out(plan: Plan, columns: tuple[str, ...]) -> Layout:
    """Sort out what the columns are; others than join keys and inputs are left alone, as Feast does.

    Raises:
        RequestDataNotFoundInEntityRowsException: an on-demand view lacks an input.
        KeyError: a view has none of its join keys.
    """
    inputs = [name for name in columns if name in plan.inputs]
    utils.ensure_request_data_values_exist(plan.inputs, {name: [] for name in inputs})
    known = set(plan.join_keys.values())
    join_keys: dict[str, str] = {}
    for name in columns:
        if name in plan.inputs:
            continue
        if name in known:
            join_keys[name] = name
        elif name in plan.join_keys:
            warnings.warn("Using entity name is deprecated. Use join_key instead.", stacklevel=5)
            join_keys[plan.join_keys[name]] = name
    groups: dict[tuple[tuple[str, str | None], ...], tuple[int, dict[bytes, int]]] = {}
    indexes = []
    for stored in plan.views:
        used = _key_columns(plan, stored, join_keys)
        number, fields = groups.setdefault(used, (len(groups), {}))
        indexes.append(
            ViewIndexes(
                number,
                [fields.setdefault(name, len(fields)) for name in stored.fields],
                fields.setdefault(stored.stamp_field, len(fields)),
            )
        )
    return Layout(
        [(column, key, plan.kind_of(key)) for key, column in join_keys.items()],
        [(name, plan.kind_of(name)) for name in inputs],
        [
            KeyGroup(encoding.prefix([key for key, _ in used]), [column for _, column in used], list(fields))
            for used, (_, fields) in groups.items()
        ],
        indexes,
    )


def _key_columns(
    plan: Plan, stored: StoredView, join_keys: dict[str, str]
) -> tuple[tuple[str, str | None], ...]:
    """Join key as the view was written with, and the column with its values, sorted by the former."""
    view = stored.view
    alias = view.projection.join_key_map
    found: list[tuple[str, str | None]] = []
    for key in {plan.join_keys[name] for name in view.entities}:
        # the name it goes by in this request, or its own
        column = join_keys.get(alias.get(key, key)) or join_keys.get(key)
        if column is not None or key == DUMMY_ENTITY_ID:
            found.append((key, column))
    if not found:
        # raises what Feast raises
        utils._get_unique_entities(view, {name: [] for name in join_keys}, plan.join_keys)  # noqa: SLF001
    return tuple(sorted(found))


_NANOS = 10**9
_MOST = 1000


@dataclass(frozen=True, slots=True)
class StoredView:
    """A feature view to be read."""

    view: FeatureView
    #: names of the features, and under which each is found in Redis
    features: list[str]
    fields: list[bytes]
    stamp_field: bytes
    #: how old a row may be, in nanoseconds; None: unlimited
    ttl: int | None
    #: name of each feature in the answer, and its type
    names: list[str]
    types: list[ValueType | None]


class Result(NamedTuple):
    """A feature of the answer: from a stored view (by its index), or (None) from an on-demand view."""

    name: str
    view: int | None
    feature: int


@dataclass(frozen=True, slots=True)
class Transform:
    """An on-demand view to be computed."""

    view: OnDemandFeatureView
    #: indexes of the stored views it sees: its own sources and no others
    sources: list[int]
    #: short and full name of each feature of its sources, as a function may use either
    inputs: list[tuple[str, str]]
    #: of each feature that was asked for: its full name and its own, that in the answer, and its type
    outputs: list[tuple[str, str, str, ValueType]]

    @property
    def is_python(self) -> bool:
        """Whether it is a function of lists or values; Feast's own code computes others."""
        return bool(self.view.mode == "python") and not self.view.aggregations


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved request."""

    #: as they were given: a service of the same name can be another one
    features: Features
    refs: list[str]
    views: list[StoredView]
    on_demand: list[OnDemandFeatureView]
    results: list[Result]
    #: join key of each name that entity rows may use, and the type of its values
    join_keys: dict[str, str]
    entity_types: dict[str, ValueType]
    #: inputs of on-demand views that entity rows must have
    inputs: set[str]
    full_names: bool
    feature_types: dict[str, ValueType]
    #: of on-demand views that are computed when they are read
    transforms: list[Transform]
    _layouts: dict[tuple[str, ...], Layout] = field(default_factory=dict)

    def kind_of(self, column: str) -> ValueType:
        """Type of the values of a column of entity rows; `UNKNOWN`: that of the first value."""
        return self.entity_types.get(column, ValueType.UNKNOWN)

    def layout(self, columns: Iterable[str]) -> Layout:
        """How rows with these columns are read."""
        key = tuple(columns)
        if (found := self._layouts.get(key)) is None:
            if len(self._layouts) >= _MOST:  # whoever asks may name columns as they like
                self._layouts.clear()
            found = self._layouts[key] = lay_out(self, key)
        return found


class Plans:
    """Plans of one registry, forgotten when it was changed, refreshed, or is due to be."""

    def __init__(self) -> None:
        # replaced as a whole: threads see the plans of one state of one registry
        self._current: tuple[BaseRegistry | None, Any, dict[Any, Plan]] = (None, None, {})

    def get(
        self,
        config: RepoConfig,
        registry: BaseRegistry,
        project: str,
        features: Features,
        *,
        full_names: bool,
    ) -> Plan:
        """The plan of a request; errors are Feast's own."""
        what = features.name if isinstance(features, FeatureService) else tuple(features)
        key = (what, type(features), project, full_names)
        state = state_of(registry)
        of, known_state, known = self._current
        is_current = registry is of and state == known_state and state is not None
        if is_current and (plan := known.get(key)) is not None:
            given = plan.features
            if isinstance(features, list) or given is features or given == features:
                return plan
        plan = _resolve(config, registry, project, features, full_names=full_names)
        # resolving may have refreshed the registry: only what was read from one state of it is kept
        if state is not None and state == state_of(registry):
            if not is_current or len(known) >= _MOST:
                known = {}
                self._current = registry, state, known
            known[key] = plan
        return plan


def state_of(registry: BaseRegistry) -> tuple[Any, ...] | None:
    """Changes whenever what the registry says may have changed; None: it has no cache that is valid."""
    created = getattr(registry, "cached_registry_proto_created", None)
    if created is None or not registry.is_cache_valid():
        return None
    proto = registry.cached_registry_proto  # type: ignore[attr-defined]  # where there is the other, too
    # a file's registry is changed in place: only the version shows it
    return created, proto.version_id, id(proto)


def _resolve(
    config: RepoConfig, registry: BaseRegistry, project: str, features: Features, *, full_names: bool
) -> Plan:
    (
        refs,
        on_demand,
        join_keys,
        entity_types,
        _,
        grouped,
        _,
        needed,
        _,
    ) = utils._get_online_request_context(registry, project, features, full_names)  # noqa: SLF001  # no public one
    encoding.require_version(config)
    order = {ref: index for index, ref in enumerate(refs)}
    views = [_stored(view, names, config, order, full_names=full_names) for view, names in grouped]
    types = {
        name: kind
        for stored in views
        for names in (stored.names, stored.features)
        for name, kind in zip(names, stored.types, strict=True)
        if kind is not None
    }
    results = _results(refs, views, full_names=full_names)
    wanted = {result.name for result in results if result.view is None}
    return Plan(
        features,
        refs,
        views,
        on_demand,
        results,
        join_keys,
        entity_types,
        needed,
        full_names,
        types,
        [
            _transform(view, views, wanted, full_names=full_names)
            for view in on_demand
            if not view.write_to_online_store
        ],
    )


def _transform(
    view: OnDemandFeatureView, stored: list[StoredView], wanted: set[str], *, full_names: bool
) -> Transform:
    projections = view.source_feature_view_projections.values()
    sources = {projection.name for projection in projections}
    used = view.projection.name_to_use()
    outputs = []
    for feature in view.features:
        full = f"{used}__{feature.name}"
        name = full if full_names else feature.name
        if name in wanted:
            outputs.append((full, feature.name, name, feature.dtype.to_value_type()))
    return Transform(
        view,
        [index for index, each in enumerate(stored) if each.view.projection.name in sources],
        [
            (feature.name, f"{projection.name}__{feature.name}")
            for projection in projections
            for feature in projection.features
        ],
        outputs,
    )


def _stored(
    view: FeatureView, features: list[str], config: RepoConfig, order: dict[str, int], *, full_names: bool
) -> StoredView:
    used = view.projection.name_to_use()
    features = sorted(features, key=lambda name: (order.get(f"{used}:{name}", len(order)), name))
    types = {each.name: each.dtype.to_value_type() for each in view.features}
    stored_name = _versioned_fv_name(view, config)
    ttl = getattr(view, "ttl", None)
    return StoredView(
        view,
        features,
        [_mmh3(f"{stored_name}:{name}") for name in features],
        f"_ts:{stored_name}".encode(),
        round(ttl.total_seconds() * _NANOS) if ttl else None,
        [f"{used}__{name}" if full_names else name for name in features],
        [types.get(name) for name in features],
    )


def _results(refs: list[str], views: list[StoredView], *, full_names: bool) -> list[Result]:
    """Where each requested feature comes from, in the order of the request."""
    indexes = {
        f"{stored.view.projection.name_to_use()}:{name}": Result(stored.names[index], number, index)
        for number, stored in enumerate(views)
        for index, name in enumerate(stored.features)
    }
    found = []
    for ref in refs:
        view, version, name = utils._parse_feature_ref(ref)  # noqa: SLF001  # no public one
        used = view if version is None else f"{view}@v{version}"
        short = Result(f"{used}__{name}" if full_names else name, None, 0)
        found.append(indexes.get(f"{used}:{name}", short))
    return found
