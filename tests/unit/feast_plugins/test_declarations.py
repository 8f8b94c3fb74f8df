# ruff: noqa: E501 - a line a case
"""What can be declared, what is refused, and what Feast's registry keeps of it."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import BatchFeatureView, Entity, FeatureStore, FeatureView, Field, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64, String
from support.declared_views import ENTITIES, declare

from feast_plugins.errors import DeclarationError
from feast_plugins.windows import (
    AssetAttribute,
    Calendar,
    DegreeHours,
    Difference,
    Holiday,
    Lag,
    Quantile,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    Weather,
    WindPower,
    declared_view,
)
from feast_plugins.windows.declarations import declaration_of
from feast_plugins.windows.features import Window, expression_of
from feast_plugins.windows.statements import Statements

if TYPE_CHECKING:
    from pathlib import Path

HOUR = timedelta(hours=1)
EVERYTHING = {
    "mean_7d": Aggregation("value", "mean", timedelta(days=7), HOUR),
    "readings": Aggregation("value", "count", timedelta(days=1), HOUR),
    "lag_48h": Lag("value", 48 * HOUR),
    "weeks": SameHour("value", "mean", 4, every=7),
    "rise": Difference(Lag("value", HOUR), Aggregation("value", "min", timedelta(days=1), HOUR)),
    "share": Ratio(Lag("value", HOUR), Weather("temperature")),
    "heating": DegreeHours(15.5, timedelta(days=1)),
    "high": Quantile("value", 0.9, timedelta(days=1)),
    "day": Calendar("day_of_week"),
    "holiday": Holiday("DE", "BY"),
    "kind": AssetAttribute("kind"),
    "price": Series("price", by="price_zone"),
    "price_24h": Aggregation("price@price_zone", "mean", timedelta(days=1), HOUR),
    "portfolio": Lag("value@group", 48 * HOUR),
    "elevation": SunPosition("elevation"),
}


def test_declared_view__through_feasts_registry__is_the_same(tmp_path: Path) -> None:
    settings = (
        f"project: p\nprovider: local\nregistry: {{registry_type: sql, path: 'sqlite:///{tmp_path}/r.db'}}\n"
    )
    (tmp_path / "feature_store.yaml").write_text(f"{settings}entity_key_serialization_version: 3\n")
    registry = FeatureStore(repo_path=str(tmp_path)).registry
    view = declared_view(
        name="demand", entities=ENTITIES, features=EVERYTHING, descriptions={"heating": "K·h"}
    )
    for entity in ENTITIES:
        registry.apply_entity(entity, "p")
    registry.apply_feature_view(view, "p")
    kept = registry.get_feature_view("demand", "p")
    assert declaration_of(kept) == declaration_of(view)
    assert Statements(declare("demand", EVERYTHING)).sha256 == Statements(_declared(kept)).sha256
    assert {field.name: field.dtype for field in kept.features} == {
        **dict.fromkeys(EVERYTHING, Float64),
        **dict.fromkeys(("readings", "day", "holiday"), Int64),
        "kind": String,
    }
    tags = {field.name: field.tags["lookback_hours"] for field in kept.features}
    assert tags == {
        "mean_7d": "168",
        "readings": "24",
        "lag_48h": "48",
        "weeks": "672",
        "rise": "24",
        "share": "1",
        "heating": "24",
        "high": "24",
        "day": "0",
        "holiday": "0",
        "kind": "0",
        "price": "0",
        "price_24h": "24",
        "portfolio": "48",
        "elevation": "0",
    }


def _declared(view: FeatureView) -> Any:
    found = declaration_of(view)
    assert found is not None
    return found


@pytest.mark.parametrize("name", EVERYTHING)
def test_expression__from_json__is_the_same(name: str) -> None:
    declared = declare("v", {"needed": Lag("value", HOUR), name: EVERYTHING[name]}).features[name]
    assert expression_of(declared.as_json()) == declared


def test_reaches__expressions_of_several_sources__are_merged() -> None:
    declaration = declare("v", EVERYTHING)
    assert declaration.reaches("readings") == [(1, 672)]
    assert declaration.reaches("weather") == [(0, 30)]
    assert declaration.reaches("price@price_zone") == [(0, 24)]
    assert declaration.reaches("value@group") == [(48, 48)]
    assert declaration.sources == ["price@price_zone", "readings", "value@group", "weather"]
    sparse = declare(
        "v", {"a": Lag("value", HOUR), "b": Lag("value", 48 * HOUR), "c": Lag("value", 2 * HOUR)}
    )
    assert sparse.reaches("readings") == [(1, 2), (48, 48)]


REFUSED = {
    "a lag of half an hour": ({"a": Lag("value", HOUR / 2)}, r"v\.a: A lag of 0:30:00 is no whole number of steps: rows come every 1h"),
    "no lag": ({"a": Lag("value", timedelta(0))}, "no whole number of steps"),
    "a negative window": ({"a": Aggregation("value", "mean", -HOUR, HOUR)}, "no whole number of steps"),
    "a lag of three years": ({"a": Lag("value", timedelta(days=1100))}, "no whole number of steps"),
    "no window": ({"a": Aggregation("value", "mean")}, "needs a time_window"),
    "a step of 20 minutes": ({"a": Aggregation("value", "mean", HOUR, HOUR / 3)}, r"v: rows come every 15min, 30min, 1h, 1d, not every 0:20:00"),
    "a day of hours": ({"a": Aggregation("value", "mean", 36 * HOUR, 24 * HOUR)}, r"A time_window of 1 day, 12:00:00 is no whole number of steps: rows come every 1d"),
    "weather of days": ({"a": Aggregation("temperature", "mean", 48 * HOUR, 24 * HOUR)}, "There is no temperature of days: declare features of it in a view with a step of an hour or less"),
    "two steps": (
        {"a": Aggregation("value", "mean", HOUR, HOUR / 4), "b": Difference(Lag("value", HOUR), Aggregation("value", "max", 2 * HOUR, HOUR))},
        "slide by the step of the view's rows, not by 0:15:00 and 1:00:00",
    ),
    "an unknown column": ({"a": Lag("wind", HOUR)}, "no column 'wind'; there are value, temperature"),
    "a series by an unknown key": ({"a": Lag("price@region", HOUR)}, "no key of a series 'region'; there are tenant"),
    "a series without a key": ({"a": Series("price", by="")}, "no key of a series ''"),
    "a name that is none of a series": ({"a": Series("Day-ahead")}, "'Day-ahead' is no name of a series"),
    "a total of the present hour": ({"a": Series("value", by="group")}, "'value' is no name of a series"),
    "a total of the tenant": ({"a": Lag("value@tenant", HOUR)}, "'value' is no name of a series"),
    "an unknown function": ({"a": Aggregation("value", "median", HOUR, HOUR)}, "no function 'median'; there are mean"),
    "weather of the readings": ({"a": Weather("value")}, "no column of the weather 'value'"),
    "too far back": ({"a": SameHour("value", "mean", 800)}, "looks back 17544 hours at most, not 19200"),
    "no days": ({"a": SameHour("value", "mean", 0)}, "days of SameHour is a whole number from 1"),
    "heating of humidity": ({"a": DegreeHours(15, HOUR, column="humidity")}, "no column of degrees"),
    "90 for 0.9": ({"a": Quantile("value", 90, HOUR)}, "A quantile is a number from 0 to 1, not 90"),
    "a quantile of half an hour": ({"a": Quantile("value", 0.5, HOUR / 2)}, "no whole number of steps"),
    "melting": ({"a": DegreeHours(1500, HOUR)}, "base of DegreeHours is a temperature"),
    "an unknown direction": ({"a": DegreeHours(15, HOUR, "warming")}, "no direction 'warming'"),
    "a difference of calendars": (
        {"a": Difference(Lag("value", HOUR), Calendar("month"))},
        "two lags, windows or weather values, not of Calendar",
    ),
    "an unknown part of the sun": ({"x": Lag("value", HOUR), "a": SunPosition("corona")}, "no part of the sun's position 'corona'"),
    "an unknown calendar": ({"x": Lag("value", HOUR), "a": Calendar("moon")}, "no part of the calendar 'moon'"),
    "a country that is none": ({"x": Lag("value", HOUR), "a": Holiday("ZZ")}, r"v\.a: There are no holidays of ZZ"),
    "a part that is none": ({"x": Lag("value", HOUR), "a": Holiday("DE", "ZZ")}, "no holidays of DE ZZ"),
    "a turbine beside rows of their own time": ({"x": Lag("value", HOUR), "a": WindPower()}, "only a view with a horizon has WindPower"),
    "a turbine that never stops": ({"x": Lag("value", HOUR), "a": WindPower(cut_out=5)}, "cut_in < rated < cut_out <= 120 in m/s"),
    "a turbine of a temperature": ({"x": Lag("value", HOUR), "a": WindPower(column="temperature")}, "no column of the wind's speed"),
    "no such attribute": ({"x": Lag("value", HOUR), "a": AssetAttribute("colour")}, "no attribute of an asset 'colour'"),
    "nothing to store": ({"a": Calendar("month")}, "at least one feature of readings or weather"),
    "a name with a quote": ({'a"b': Lag("value", HOUR)}, "is no name of a feature"),
    "the name of a key": ({"asset_id": Lag("value", HOUR)}, "is no name of a feature"),
    "no expression": ({"a": "lag"}, "A feature is an Aggregation or a type of feast_plugins.windows, not 'lag'"),
    "weather of two years": ({"a": Aggregation("temperature", "mean", timedelta(days=365), HOUR)}, "kept for a year, so a feature of it looks back 8753 hours"),
    "a column of every table": ({"ctid": Lag("value", HOUR)}, "is no name of a feature"),
    "another name": ({"a": Aggregation("value", "mean", HOUR, HOUR, "b")}, "the aggregation b is declared as a"),
}  # fmt: skip


@pytest.mark.parametrize(("features", "problem"), REFUSED.values(), ids=REFUSED)
def test_declared_view__what_cannot_be__is_refused(features: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        declared_view(name="v", entities=ENTITIES, features=features)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Demand",
        "demand; DROP TABLE assets",
        "d" * 60,
        "1d",
        "pg_demand",
        "demand_stored",
        "demand_versions",
    ],
)
def test_declared_view__name_that_is_none__is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="no name of a declared view"):
        declare(name, {"a": Lag("value", HOUR)})


def test_declared_view__other_keys__are_refused() -> None:
    zone = Entity(name="zone", join_keys=["zone_id"], value_type=ValueType.STRING)
    with pytest.raises(DeclarationError, match="the keys tenant_id and asset_id"):
        declared_view(name="v", entities=[ENTITIES[0], zone], features={"a": Lag("value", HOUR)})


def test_declaration_of__aggregations_of_feasts_view__are_refused() -> None:
    source = PostgreSQLSource(name="s", query="SELECT 1", timestamp_field="event_timestamp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it is experimental
        view = BatchFeatureView(
            name="stock",
            entities=ENTITIES,
            source=source,
            schema=[Field(name=name, dtype=String) for name in ("tenant_id", "asset_id")],
            aggregations=[Aggregation("value", "mean", HOUR)],
        )
    with pytest.raises(DeclarationError, match="stock: Feast computes no aggregations on Postgres"):
        declaration_of(view)
    # what its registry gives back has none
    assert declaration_of(FeatureView.from_proto(view.to_proto())) is None


def test_declaration_of__expression_of_a_later_version__is_refused() -> None:
    field = Field(name="a", dtype=Float64, tags={"expression": '{"kind": "sun"}'})
    source = PostgreSQLSource(name="s", query="SELECT 1", timestamp_field="event_timestamp")
    view = FeatureView(name="v", entities=ENTITIES, source=source, schema=[field])
    with pytest.raises(DeclarationError, match="No expression that this version knows"):
        declaration_of(view)


def test_aggregation__of_feast__is_a_window() -> None:
    declaration = declare("v", {"a": Aggregation("value", "mean", timedelta(days=1), HOUR, "a")})
    assert declaration.features == {"a": Window("value", "mean", timedelta(days=1))}
