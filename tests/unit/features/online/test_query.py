from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.online import query

ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)


def service(name: str, *features: str) -> FeatureService:
    view = FeatureView(
        name=f"{name}_view",
        entities=[ASSET],
        schema=[Field(name=feature, dtype=Float64) for feature in features],
        source=FileSource(path=str(Path(name)), timestamp_field="at"),
    )
    return FeatureService(name=name, features=[view])


SMALL = service("small", "lag_1h", "lag_24h")
SERVICES = {
    each.name: each
    for each in (
        SMALL,
        service("large", "lag_1h", "lag_168h", "temperature"),
        service("other", "price"),
    )
}
# somebody's selection of the same view
SERVICES["again"] = FeatureService(name="again", features=[*SMALL._features])


def chosen(feature_set: str | None, *names: str) -> object:
    known = query.meanings_by_name(SERVICES, {})
    found = query.choose_features(SERVICES, known, feature_set, names or None, default="small")
    return found if isinstance(found, list) else found.name


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["lag_24h"], ["small_view:lag_24h"]),
        (["temperature", "lag_24h"], ["large_view:temperature", "small_view:lag_24h"]),
        (["price", "price", "lag_168h"], ["other_view:price", "large_view:lag_168h"]),
    ],
)
def test_features__names_alone__from_the_one_view_that_has_them(names: list[str], found: object) -> None:
    assert chosen(None, *names) == found


def test_features__name_of_two_views__lists_the_sets() -> None:
    with pytest.raises(BadInputError, match=r"lag_1h in again, large, small") as refused:
        chosen(None, "lag_1h", "lag_24h")
    assert "again, small" in str(refused.value.hint)
    with pytest.raises(BadInputError) as refused:
        chosen(None, "lag_1h", "price")
    assert "each set by themselves" in str(refused.value.hint)


def test_features__name_with_one_meaning__from_the_set_with_most_of_them_then_the_smallest() -> None:
    tagged = {
        name: service(name, *features)
        for name, features in {"c": ("x", "y", "z"), "b": ("x", "y"), "a": ("x", "w", "v")}.items()
    }
    tags = {f"{name}_view": "rows" for name in tagged}
    known = query.meanings_by_name(tagged, tags)
    for names, found in {
        ("x",): ["b_view:x"],
        ("x", "y"): ["b_view:x", "b_view:y"],
        ("x", "z"): ["c_view:x", "c_view:z"],
        ("w", "y", "x"): ["a_view:w", "b_view:y", "b_view:x"],
    }.items():
        assert query.choose_features(tagged, known, None, names, default="a") == found
    known = query.meanings_by_name(tagged | {"d": service("d", "x")}, tags)
    with pytest.raises(BadInputError, match="x in a, b, c, d"):
        query.choose_features(tagged, known, None, ["x"], default="a")


def test_features__new_service__changes_no_answer_of_others() -> None:
    before = chosen(None, "temperature")
    SERVICES["new"] = service("new", "temperature")
    try:
        with pytest.raises(BadInputError, match="large, new"):
            chosen(None, "temperature")
    finally:
        del SERVICES["new"]
    assert chosen(None, "temperature") == before


def test_features__nothing_named__the_default() -> None:
    assert chosen(None) == "small"


@pytest.mark.parametrize(
    ("feature_set", "names", "message", "hint"),
    [
        ("smal", [], "no feature set smal", "again, large, other, small"),
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
