"""One feature repository over the suite's tables, with every shape of view that the stores must read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
from conformance.rows import HOUR, KINDS, READABLE, UNREADABLE
from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TENANT = Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING)
ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
DEVICE = Entity(name="device", join_keys=["device_id"], value_type=ValueType.INT64)

_LOAD = [
    Field(name="load", dtype=Float64),
    Field(name="readings", dtype=Int64),
    Field(name="quality", dtype=String),
]
_PRICE = [Field(name="price", dtype=Float64), Field(name="season", dtype=String)]


def source(name: str, **options: Any) -> PostgreSQLSource:
    """A source with the usual name of the time column; its table is `name` unless a query is given."""
    given = {} if "query" in options else {"table": name}
    return PostgreSQLSource(**{"name": name, "timestamp_field": "event_timestamp"} | given | options)


def view(name: str, of: Any, fields: list[Field], ttl: timedelta | None, *entities: Entity) -> FeatureView:
    return FeatureView(name=name, source=of, schema=fields, ttl=ttl, entities=list(entities))


_loads = source("loads", created_timestamp_column="created_timestamp")
_unmarked = source("loads_unmarked", query="SELECT * FROM loads WHERE load IS DISTINCT FROM 2.5")
_good = source(
    "good_loads",
    query="SELECT * FROM loads WHERE quality = 'good'",
    created_timestamp_column="created_timestamp",
)
_best = source(
    "best_loads",
    query="SELECT * FROM loads WHERE quality = 'good' AND load IS DISTINCT FROM 2.5",
    created_timestamp_column="created_timestamp",
)
#: Waits as long as the table `patience` says before the first row, or before the last.
_slow = source(
    "slow_loads",
    query="SELECT loads.* FROM loads, pg_sleep((SELECT seconds FROM patience)) AS slow_read",
    created_timestamp_column="created_timestamp",
)
_stuck = source(
    "stuck",
    query="SELECT 't' || number AS tenant_id, '2025-10-26 12:00Z'::timestamptz AS event_timestamp,"
    " repeat('x', 1000) AS season FROM generate_series(1, 4000) AS made (number)"
    " UNION ALL SELECT 'last', '2025-10-26 12:00Z', 'y'"
    " FROM pg_sleep((SELECT seconds FROM patience)) AS slow_read",
)
_renamed = source(
    "renamed",
    timestamp_field="at",
    created_timestamp_column="made_at",
    field_mapping={"mapped kW": "power", "Tenant": "tenant_id", "At": "at", "made": "made_at"},
)
PUSHED = PushSource(name="readings", batch_source=_loads)

LOAD = view("load", _loads, _LOAD, 2 * HOUR, TENANT, ASSET)
LOAD_EVER = view("load_ever", _loads, _LOAD, None, TENANT, ASSET)
PRICE = view("price", source("prices"), _PRICE, timedelta(days=1), TENANT)
_INDEX = [Field(name="index", dtype=Float64)]
MARKET = view("market", source("market"), _INDEX, 3 * HOUR)
_devices = source("devices")


def _typed(name: str, kinds: Iterable[str]) -> FeatureView:
    fields = [Field(name=f"f_{kind}", dtype=KINDS[kind].feast) for kind in kinds]
    return view(name, _devices, fields, None, DEVICE)


UNMARKED = view("unmarked", _unmarked, _LOAD, 2 * HOUR, TENANT, ASSET)
VIEWS = [
    LOAD,
    LOAD_EVER,
    view("load_zero", _loads, _LOAD, timedelta(0), TENANT, ASSET),
    view("load_good", _good, _LOAD, 2 * HOUR, TENANT, ASSET),
    view("slow", _slow, _LOAD, None, TENANT, ASSET),
    view("stuck", _stuck, _PRICE[1:], None, TENANT),
    view("load_best", _best, _LOAD, 2 * HOUR, TENANT, ASSET),
    view("load_pushed", PUSHED, _LOAD, None, TENANT, ASSET),
    view("load_hour", _unmarked, _LOAD, HOUR, TENANT, ASSET),
    PRICE,
    view("price_naive", source("naive"), _PRICE, timedelta(days=1), TENANT),
    MARKET,
    view("market_ever", source("market"), _INDEX, None),
    view("numbered", source("numbers"), [Field(name="number", dtype=Int64)], None, DEVICE),
    _typed("typed", READABLE),
    _typed("unreadable", UNREADABLE),
    *(_typed(f"only_{kind}", [kind]) for kind in UNREADABLE),
    view("written", source("written"), _PRICE, None, TENANT),
    view("named", source("named"), [Field(name="value", dtype=Float64)], None, TENANT, ASSET),
    view("named_too", source("named"), [Field(name="value", dtype=Float64)], HOUR, TENANT, ASSET),
    view("ties", source("ties"), [Field(name="value", dtype=Float64)], None, TENANT),
    UNMARKED,
    view("renamed", _renamed, [Field(name="power", dtype=Float64)], 2 * HOUR, TENANT),
]
_REQUEST = RequestSource(name="request", schema=[Field(name="factor", dtype=Float64)])


@on_demand_feature_view(sources=[LOAD, _REQUEST], schema=[Field(name="scaled", dtype=Float64)], mode="pandas")
def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"scaled": inputs["load"] * inputs["factor"]})


@on_demand_feature_view(
    sources=[LOAD, PRICE],
    schema=[Field(name="cost", dtype=Float64), Field(name="known", dtype=Int64)],
    mode="python",
)
def cost(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = list(zip(inputs["load"], inputs["price"], strict=True))
    known = [load is not None and price is not None for load, price in pairs]
    return {
        "cost": [load * price if ok else None for (load, price), ok in zip(pairs, known, strict=True)],
        "known": [int(ok) for ok in known],
    }


@on_demand_feature_view(sources=[UNMARKED], schema=[Field(name="twice", dtype=Float64)], mode="python")
def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"twice": [None if load is None else load * 2 for load in inputs["load"]]}


@on_demand_feature_view(
    sources=[LOAD], schema=[Field(name="label", dtype=String)], mode="python", singleton=True
)
def labelled(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"label": f"{inputs['quality']} {inputs['load']}"}


ON_DEMAND: list[OnDemandFeatureView] = [scaled, cost, doubled, labelled]
SERVICES = [
    FeatureService(name="everything", features=[LOAD, PRICE, MARKET, cost]),
    FeatureService(name="projected", features=[LOAD[["readings"]], PRICE[["season", "price"]]]),
    FeatureService(
        name="aliased",
        features=[
            PRICE.with_name("here")[["price"]],
            PRICE.with_name("there").with_join_key_map({"tenant_id": "other_tenant"})[["season", "price"]],
        ],
    ),
]
SOURCES = {made.batch_source.name: made.batch_source for made in VIEWS}


def definitions() -> Iterator[Any]:
    """All that `apply` takes."""
    yield from (TENANT, ASSET, DEVICE, PUSHED)
    yield from VIEWS
    yield from ON_DEMAND
    yield from SERVICES
