"""What the files of a feature service hold, and where it comes from, by Feast's own definition of it."""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from feast import OnDemandFeatureView, utils
from feast.infra.offline_stores import offline_utils
from feast.types import from_feast_to_pyarrow_type

from ai_hub.errors import BadInputError
from ai_hub.features.online.query import Lookup, lookup_of
from ai_hub.features.store import feature_names, feature_references, get_service
from feast_plugins.offline.views import AsOfFilter, ViewRead

if TYPE_CHECKING:
    from datetime import datetime

    from feast import FeatureService, FeatureStore

TIME: Final = "event_timestamp"
TENANT: Final = "tenant_id"
ASSET: Final = "asset_id"
CREATED: Final = "created_timestamp"
_VERSION_LENGTH: Final = 16


@dataclass(frozen=True)
class Computed:
    """On-demand features of one view, computed row by row from stored ones."""

    view: OnDemandFeatureView
    inputs: tuple[str, ...]
    outputs: dict[str, pa.DataType]


@dataclass(frozen=True)
class Plan:
    """A feature service, its rows, and its features in order."""

    service: str
    #: changes when the definition of the service or of one of its views does
    version: str
    features: tuple[str, ...]
    #: its rows are the rows of the export
    base: ViewRead
    #: joined to them as of their time
    others: tuple[ViewRead, ...]
    #: where the keys of others are found that are neither tenant nor asset
    lookups: tuple[Lookup, ...]
    computed: tuple[Computed, ...]


def plan_of(store: FeatureStore, name: str, span: tuple[datetime, datetime]) -> Plan:
    """How service `name` is exported.

    Raises:
        NotFoundError: there is no such service.
        BadInputError: its rows are not those of assets of tenants, or two features have one name.
    """
    service = get_service(store, name)
    features = tuple(feature_names(service))
    if len({*features, TIME, TENANT, ASSET, CREATED}) != len(features) + 4:
        raise BadInputError(
            f"Features of {name} have a name twice, or that of a key or time.",
            hint="Rename them in the feature repository.",
        )
    stored, on_demand = _views(store, service)
    reads = _reads(store, stored, [each.view for each in on_demand], feature_references(service), span)
    complete = [read for read in reads if set(read.keys) == {TENANT, ASSET}]
    if not complete or not all(read.keys for read in reads):
        raise BadInputError(
            f"Feature service {name} cannot be exported: no view of it is keyed by tenant_id and asset_id.",
            hint="Give one view of it the entities tenant and asset: its rows are those of the export.",
        )
    base = complete[0]
    keys = {key for read in reads for key in read.keys} - {TENANT, ASSET}
    entities = {each.join_key: each for each in store.list_entities()} if keys else {}
    if unknown := keys - set(entities):
        raise BadInputError(
            f"Feature service {name} cannot be exported: it renames the key {min(unknown)}.",
            hint="Leave `with_join_key_map` out of the service.",
        )
    return Plan(
        service=name,
        version=_version(service, [*stored, *(each.view for each in on_demand)]),
        features=features,
        base=base,
        others=tuple(read for read in reads if read is not base),
        lookups=tuple(lookup_of(entities[key]) for key in sorted(keys)),
        computed=tuple(on_demand),
    )


def _views(store: FeatureStore, service: FeatureService) -> tuple[list[Any], list[Computed]]:
    """Stored views, those of inputs of on-demand features among them, and on-demand ones.

    As Feast's own history finds them.
    """
    refs = feature_references(service)
    known = utils._get_feature_views_to_use(store.registry, store.project, service)  # noqa: SLF001
    for view in known[1]:
        view.write_to_online_store = False
    grouped, on_demand = utils._group_feature_refs(refs, *known)  # noqa: SLF001
    computed = [
        Computed(
            view,
            tuple(
                feature.name
                for projection in view.source_feature_view_projections.values()
                for feature in projection.features
            ),
            {
                field.name: from_feast_to_pyarrow_type(field.dtype)
                for field in view.features
                if field.name in wanted
            },
        )
        for view, wanted in on_demand
    ]
    return [view for view, _ in grouped], computed


def _reads(
    store: FeatureStore,
    stored: list[Any],
    on_demand: list[OnDemandFeatureView],
    refs: list[str],
    span: tuple[datetime, datetime],
) -> list[ViewRead]:
    inputs = [
        f"{projection.name_to_use()}:{feature.name}"
        for view in on_demand
        for projection in view.source_feature_view_projections.values()
        for feature in projection.features
    ]
    wanted = list(dict.fromkeys([*refs, *inputs]))
    contexts = offline_utils.get_feature_view_query_context(
        wanted, stored, store.registry, store.project, span
    )
    return [ViewRead.of(context, {}, AsOfFilter()) for context in contexts]


def _version(service: FeatureService, views: list[Any]) -> str:
    """Beginning of the SHA-256 of all definitions."""
    digest = hashlib.sha256()
    for each in [service, *sorted(views, key=lambda view: str(view.name))]:
        spec = each.to_proto().spec
        if spec.DESCRIPTOR.fields_by_name.get("feature_transformation"):
            # the pickled function differs from process to process; its text stays
            spec.feature_transformation.user_defined_function.body = b""
        digest.update(spec.SerializeToString(deterministic=True))
    return digest.hexdigest()[:_VERSION_LENGTH]
