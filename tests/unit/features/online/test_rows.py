"""Features as they are sent, from rows as Redis has them."""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String, UnixTimestamp

from ai_hub.features.online import query, rows
from ai_hub.features.online.catalog import _RegistryState
from ai_hub.features.online.query import as_of
from ai_hub.times import to_nanos
from feast_plugins.online.plan import Plans
from feast_plugins.online.reading import encode_outputs
from feast_plugins.online.writing import stamp_of

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOUR = NOW.replace(minute=0)
ENTITIES = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in query.KEYS]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    config = RepoConfig(
        project="rows",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "redis"},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def payload(
    store: FeatureStore,
    service: FeatureService,
    stored: dict[str, Any],
    names: list[str] | None = None,
    outputs: query.Outputs | None = None,
) -> dict[str, Any]:
    """What is sent of an asset whose features have these values; `view.feature` names them."""
    plan = Plans().get(store.config, store.registry, store.project, service, full_names=False)
    entities = {each.join_key: each for each in store.list_entities()}
    outputs = outputs or query.Outputs()
    asked = query.resolve(store.config, plan, "rows", names, entities, outputs=outputs)
    cached = rows.CachedRows.empty(asked, as_of(None, NOW, 60), 1)
    for index, view in enumerate(each.stored for each in asked.views):
        fields = {view.stamp_field: stamp_of(HOUR)[1]}
        for name, field, kind in zip(view.features, view.fields, view.types, strict=True):
            assert kind is not None
            (fields[field],) = encode_outputs([stored[f"{view.view.name}.{name}"]], kind)
        cached._set(index, 0, fields, to_nanos(HOUR))
    (sent,) = rows.results(cached, "one", ["a"], lookback_hours=168, computed_at=NOW)
    found: dict[str, Any] = orjson.loads(orjson.dumps(sent["features"]))
    return found


def view(name: str, *features: Field) -> FeatureView:
    source = FileSource(name=name, path=f"{name}.parquet", timestamp_field="at")
    keys = [Field(name=key, dtype=String) for key in query.KEYS]
    return FeatureView(name=name, entities=ENTITIES, schema=[*keys, *features], source=source)


def apply(store: FeatureStore, *views: Any, features: list[Any]) -> FeatureService:
    service = FeatureService(name="asked", features=features)
    for entity in ENTITIES:
        store.registry.apply_entity(entity, store.project)
    for each in views:
        store.registry.apply_feature_view(each, store.project)
    store.registry.apply_feature_service(service, store.project)
    return service


def test_features__that_look_back_further_than_asked__are_left_out_by_a_plan_for_each_set_of_them(
    store: FeatureStore,
) -> None:
    hours = {"day": 24, "two": 48, "now": 0}
    fields = [
        Field(name=name, dtype=Float64, tags={"lookback_hours": str(each)}) for name, each in hours.items()
    ]
    load = view("load", *fields)
    service = apply(store, load, features=[load])
    plan = Plans().get(store.config, store.registry, store.project, service, full_names=False)
    entities = {each.join_key: each for each in store.list_entities()}
    asked = query.resolve(store.config, plan, "rows", None, entities, outputs=query.Outputs())
    row = (*(name for _, name, _ in asked.sent_columns.all), *asked.output_names, None)
    for lookback in range(1, 8761):
        expected = [None if hours[each.name] > lookback else each.name for each in asked.features]
        assert list(asked.picked(lookback)(row)) == expected
    assert len(asked._picked) == 3


def test_feature__has_the_name_of_an_on_demand_views_input__is_that_of_its_own_view(
    store: FeatureStore,
) -> None:
    site = view("site", Field(name="temperature", dtype=Float64))
    room = view("room", Field(name="temperature", dtype=Float64))

    @on_demand_feature_view(sources=[room], schema=[Field(name="kelvin", dtype=Float64)], mode="python")  # type: ignore[untyped-decorator]
    def kelvin(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"kelvin": [each + 273 for each in inputs["temperature"]]}

    service = apply(store, site, room, kelvin, features=[site[["temperature"]], kelvin])
    found = payload(store, service, {"site.temperature": 1.0, "room.temperature": 20.0})
    assert found == {"temperature": 1.0, "kelvin": 293.0}


def test_feature__has_the_name_of_an_output_nobody_asked_for__is_that_of_its_own_view(
    store: FeatureStore,
) -> None:
    site = view("site", Field(name="load", dtype=Float64), Field(name="base", dtype=Float64))
    schema = [Field(name="load", dtype=Float64), Field(name="double", dtype=Float64)]

    @on_demand_feature_view(sources=[site[["base"]]], schema=schema, mode="python")  # type: ignore[untyped-decorator]
    def computed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"load": inputs["base"], "double": [2 * each for each in inputs["base"]]}

    service = apply(store, site, computed, features=[site[["load"]], computed[["double"]]])
    found = payload(store, service, {"site.load": 1.0, "site.base": 20.0})
    assert found == {"load": 1.0, "double": 40.0}


def test_output_that_a_view_leaves_out__others_are_answered(store: FeatureStore) -> None:
    site = view("site", Field(name="base", dtype=Float64))
    schema = [Field(name="absent", dtype=Float64), Field(name="double", dtype=Float64)]

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[site[["base"]]], schema=schema, mode="python", tags={"deterministic": "true"}
    )
    def computed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"double": [2 * each for each in inputs["base"]]}

    service = apply(store, site, computed, features=[computed])
    assert payload(store, service, {"site.base": 20.0}, ["double"]) == {"double": 40.0}


def test_deterministic_view__queries_share_what_it_gave_within_one_capacity(store: FeatureStore) -> None:
    site = view("site", Field(name="base", dtype=Float64), Field(name="load", dtype=Float64))
    schema = [Field(name="double", dtype=Float64), Field(name="triple", dtype=Float64)]

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[site[["base"]]], schema=schema, mode="python", tags={"deterministic": "true"}
    )
    def computed(inputs: dict[str, Any]) -> dict[str, Any]:
        base = inputs["base"]
        return {"double": [2 * each for each in base], "triple": [3 * each for each in base]}

    service = apply(store, site, computed, features=[site[["load"]], computed])
    outputs = query.Outputs(capacity=2)

    def read(base: float, *names: str) -> dict[str, Any]:
        stored = {"site.base": base, "site.load": 7.0}
        return payload(store, service, stored, [*names], outputs)

    assert read(1.0, "double") == {"double": 2.0}
    assert read(1.0, "load", "double") == {"load": 7.0, "double": 2.0}
    assert len(outputs.kept) == 1
    assert read(1.0, "triple") == {"triple": 3.0}
    assert read(5.0, "triple", "double") == {"triple": 15.0, "double": 10.0}
    assert len(outputs.kept) == 2
    assert read(1.0, "double") == {"double": 2.0}


def test_queries_of_one_state__share_what_was_computed(store: FeatureStore) -> None:
    site = view("site", Field(name="base", dtype=Float64), Field(name="load", dtype=Float64))
    apply(store, site, features=[site])
    state = _RegistryState(store.config, store.registry)
    first, second = (state.query("asked", (name,)) for name in ("base", "load"))
    assert first.outputs is second.outputs


def test_view_of_data_frames__is_computed_by_feast__in_rows_of_two_views(store: FeatureStore) -> None:
    site = view("site", Field(name="base", dtype=Float64))
    room = view("room", Field(name="height", dtype=Float64))

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[site, room], schema=[Field(name="sum", dtype=Float64)], mode="pandas"
    )
    def computed(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"sum": inputs["base"] + inputs["height"]})

    service = apply(store, site, room, computed, features=[site, computed])
    found = payload(store, service, {"site.base": 20.0, "room.height": 3.0})
    assert found == {"base": 20.0, "sum": 23.0}


def test_time__is_sent_with_z(store: FeatureStore) -> None:
    site = view("site", Field(name="read_at", dtype=UnixTimestamp))
    service = apply(store, site, features=[site])
    assert payload(store, service, {"site.read_at": HOUR}) == {"read_at": "2026-03-01T12:00:00Z"}
