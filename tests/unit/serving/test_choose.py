from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

from ai_hub.errors import NotFoundError
from ai_hub.serving import choose

ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)


def service(name: str, *features: str) -> FeatureService:
    view = FeatureView(
        name=f"{name}_view",
        entities=[ASSET],
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        source=FileSource(path=str(Path(name)), timestamp_field="at"),
    )
    return FeatureService(name=name, features=[view])


SERVICES = {
    each.name: each
    for each in (
        service("small", "lag_1h", "lag_24h"),
        service("large", "lag_1h", "lag_24h", "lag_168h", "temperature"),
        service("range", "lag_1h", "historical_min_24h"),
        service("other", "price"),
    )
}


def chosen(feature_set: str | None, *names: str) -> object:
    found = choose.features(SERVICES, feature_set, names or None, default="small")
    return found if isinstance(found, list) else found.name


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["lag_1h"], "range"),
        (["lag_24h", "lag_1h"], "small"),
        (["lag_168h", "lag_1h"], "large"),
        (["historical_min_24h"], "range"),
        (["price"], "other"),
        (
            ["temperature", "lag_1h", "historical_min_24h"],
            ["large_view:temperature", "range_view:lag_1h", "range_view:historical_min_24h"],
        ),
        (["price", "price", "lag_168h"], ["other_view:price", "large_view:lag_168h"]),
    ],
)
def test_features__names_alone__fewest_sets_then_the_smallest(names: list[str], found: object) -> None:
    assert chosen(None, *names) == found


def test_features__nothing_named__the_default() -> None:
    assert chosen(None) == "small"


@pytest.mark.parametrize(
    ("feature_set", "names", "message", "hint"),
    [
        ("smal", [], "no feature set smal", "large, other, range, small"),
        ("small", ["lag_1h", "temperature"], "small does not have temperature", "lag_1h, lag_24h"),
        ("small", ["lag_2h"], "small does not have lag_2h", "Did you mean lag_1h"),
        (
            None,
            ["lag_1h", "tempratur", "zzz"],
            "No feature set has tempratur, zzz",
            "Did you mean temperature",
        ),
    ],
)
def test_features__unknown__says_which_and_what_there_is(
    feature_set: str | None, names: list[str], message: str, hint: str
) -> None:
    with pytest.raises(NotFoundError, match=message) as refused:
        chosen(feature_set, *names)
    assert hint in str(refused.value.hint)
