"""What a request means is remembered only as long as the registry stays as it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from feast import FeatureService, Field
from feast.errors import FeatureViewNotFoundException
from feast.types import Float64
from support.online_repo import ENTITIES, OURS, Pair, open_store, view

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

KEY = {"tenant_id": "t", "asset_id": "1"}
TWO = [Field(name="x", dtype=Float64), Field(name="y", dtype=Float64)]


@pytest.fixture
def pair(tmp_path: Path, connection: str) -> Pair:
    pair = Pair.open(tmp_path, connection)
    pair.apply(view("v", TWO), FeatureService(name="service", features=[view("v", TWO)[["x"]]]))
    pair.write(pair.ours, "v", [KEY | {"x": 1.0, "y": 2.0}])
    return pair


def names(store: FeatureStore, service: FeatureService) -> list[str]:
    return list(store.get_online_features(service, [KEY]).to_dict())[2:]


def test_view__deleted_or_changed__by_this_process(pair: Pair) -> None:
    store = pair.ours
    assert store.get_online_features(["v:x"], [KEY]).to_dict()["x"] == [1.0]
    store.apply([], objects_to_delete=[store.get_feature_service("service")], partial=False)
    store.apply([], objects_to_delete=[store.get_feature_view("v")], partial=False)
    with pytest.raises(FeatureViewNotFoundException):
        store.get_online_features(["v:x"], [KEY])
    store.apply([view("v", TWO[:1])])
    assert store.get_online_features(["v:x"], [KEY]).to_dict()["x"] == [None]
    with pytest.raises(KeyError):
        store.get_online_features(["v:y"], [KEY])


def test_service__changed_by_another_process__after_the_cache_is_due_or_refreshed(
    pair: Pair, tmp_path: Path, connection: str
) -> None:
    short, long = (
        open_store(tmp_path, connection, OURS, pair.ours.project, cache_s=seconds) for seconds in (1, 600)
    )
    held = {store: store.get_feature_service("service") for store in (short, long)}
    for store, service in held.items():
        assert names(store, service) == ["x"]
    pair.stock.apply([FeatureService(name="service", features=[view("v", TWO)[["y"]]])])
    time.sleep(1.1)
    assert names(short, short.get_feature_service("service")) == ["y"]
    assert names(long, held[long]) == ["x"]
    long.refresh_registry()
    assert names(long, long.get_feature_service("service", allow_cache=True)) == ["y"]


def test_file_registry__which_is_changed_in_place(tmp_path: Path, connection: str) -> None:
    store = open_store(tmp_path, connection, OURS, "file", in_file=True)
    store.apply([*ENTITIES, view("v", TWO)])
    assert store.get_online_features(["v:x"], [KEY]).to_dict()["x"] == [None]
    store.registry.delete_feature_view("v", store.project)
    with pytest.raises(FeatureViewNotFoundException):
        store.get_online_features(["v:x"], [KEY])
