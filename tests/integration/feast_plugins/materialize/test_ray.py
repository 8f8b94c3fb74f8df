"""On two Ray workers, materialization and history give what they give here."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import ray
import yaml
from feast import BatchFeatureView, Field, OnDemandFeatureView
from feast.types import Float64
from support.energy import ROOT
from support.materialize_lab import DAY, ENTITIES, NOON, OURS, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore
    from support.materialize_lab import Lab

RAY = (
    "feast_plugins.ray.offline_store.TimescaleRayOfflineStore",
    OURS[1],
    "feast_plugins.ray.engine.TimescaleRayComputeEngine",
)
WORKERS = {"max_workers": 2, "ray_conf": {"num_cpus": 2, "object_store_memory": 80_000_000}}
FILL = (
    "INSERT INTO meters SELECT 't' || mod(i, 7), 'a' || i, %(now)s - h * interval '1 hour', %(now)s,"
    " nullif(i, 4) * h, nullif(i, 5), 'h' || h FROM generate_series(1, 500) AS i, generate_series(0, 5) AS h"
)


@pytest.fixture(scope="module", autouse=True)
def ray_ends() -> Iterator[None]:
    yield
    ray.shutdown()


def double(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(load=frame["load"] * 2)


def fail(frame: pd.DataFrame) -> pd.DataFrame:
    raise ArithmeticError(f"{len(frame)} rows")


def computed(name: str, function: Any) -> BatchFeatureView:
    return BatchFeatureView(
        name=name,
        mode="pandas",
        udf=function,
        udf_string=inspect.getsource(function),
        entities=ENTITIES[:2],
        schema=[Field(name="load", dtype=Float64)],
        source=view().batch_source,
        # which the rows are older than
        ttl=timedelta(hours=3),
        online=True,
    )


def calendar(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"twice": [None if load is None else load * 2 for load in inputs["load"]]}


@pytest.fixture
def filled(meters: Lab) -> Lab:
    meters.execute(FILL, {"now": NOON})
    return meters


@pytest.fixture
def both(filled: Lab) -> tuple[FeatureStore, FeatureStore]:
    """A store here, over Redis 1, and one on Ray, over 2."""
    meters = view()
    twice = OnDemandFeatureView(
        name="twice",
        sources=[meters],
        schema=[Field(name="twice", dtype=Float64)],
        mode="python",
        udf=calendar,
        udf_string=inspect.getsource(calendar),
    )
    views = [meters, view("globe", {"load": Float64}, entities=[]), twice]
    return filled.store(*views, db=1), filled.store(*views, db=2, kinds=RAY, engine=WORKERS)


pytestmark = [
    pytest.mark.long,  # Ray takes half a minute to start
    pytest.mark.filterwarnings("ignore:Batch feature views are experimental:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental:RuntimeWarning"),
]


def test_materialize__on_ray__leaves_the_same(filled: Lab, both: tuple[FeatureStore, FeatureStore]) -> None:
    for store in both:
        store.materialize(NOON - DAY, NOON)
    assert filled.content(2) == filled.content(1)
    assert len(filled.content(2)) == 501


def test_materialize__transformed_on_ray__leaves_the_same(filled: Lab) -> None:
    for db, options in ((1, {}), (2, {"kinds": RAY, "engine": WORKERS})):
        filled.store(computed("doubled", double), db=db, **options).materialize(NOON - DAY, NOON)
    assert filled.content(2) == filled.content(1)
    assert len(filled.content(2)) == 500


@pytest.mark.parametrize("broken", ["redis", "function", "table"])
def test_materialize__failure_on_a_worker__is_one(filled: Lab, broken: str) -> None:
    views = {"function": computed("failing", fail), "table": view(table="gone"), "redis": view()}
    store = filled.store(views[broken], db=2, kinds=RAY, engine=WORKERS)
    if broken == "redis":
        filled.client().config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match=r"1500 rows|gone|OOM"):
            store.materialize(NOON - DAY, NOON)
    finally:
        filled.client().config_set("maxmemory", 0)
    assert store.list_all_feature_views()[0].materialization_intervals == []


@pytest.mark.parametrize("kind", ["frame", "query", "no rows"])
def test_history__on_ray__is_the_same(both: tuple[FeatureStore, FeatureStore], kind: str) -> None:
    frame = pd.DataFrame(
        {
            "asset_id": [f"a{number}" for number in range(1, 600)],
            "tenant_id": [f"t{number % 7}" for number in range(1, 600)],
            "event_timestamp": [NOON - timedelta(minutes=13 * number % 600) for number in range(1, 600)],
            "own": [None if number % 3 else number for number in range(1, 600)],
        }
    ).sample(frac=1, random_state=1)
    query = "SELECT tenant_id, asset_id, event_timestamp, count AS own FROM meters ORDER BY load, asset_id"
    rows = {"frame": frame, "query": query, "no rows": frame[:0]}[kind]
    names = ["meters:load", "meters:count", "meters:state", "globe:load", "twice:twice"]
    here, there = (
        store.get_historical_features(rows, names, full_feature_names=True).to_arrow() for store in both
    )
    assert there.column_names == here.column_names
    pd.testing.assert_frame_equal(there.to_pandas(), here.to_pandas(), check_exact=True)


def test_history__of_a_range_of_time__is_the_same(both: tuple[FeatureStore, FeatureStore]) -> None:
    here, there = (
        store.get_historical_features(None, ["meters:load"], start_date=NOON - DAY, end_date=NOON).to_df()
        for store in both
    )
    pd.testing.assert_frame_equal(there, here)


def test_configuration__differs_in_store_and_engine_alone() -> None:
    here, there = (
        yaml.safe_load((ROOT / "feature_repo" / name).read_text().replace("${PGPORT}", "1"))
        for name in ("feature_store.yaml", "feature_store.ray.yaml")
    )
    assert there.pop("batch_engine")["type"] == RAY[2]
    assert there["offline_store"].pop("type") == RAY[0]
    del here["batch_engine"], here["offline_store"]["type"]
    assert there == here
