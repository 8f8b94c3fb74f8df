"""Every shape of request gives what Feast's own store gives, but for the statuses."""

from __future__ import annotations

import inspect
import uuid
import warnings
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from feast import FeatureService, Field, OnDemandFeatureView, RequestSource
from feast import types as feast_types
from feast.errors import RequestDataNotFoundInEntityRowsException
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.types import Array, Float64, Int64, Map, Set, String
from support.online_repo import METER, TENANT, Pair, by_name, statuses, view

if TYPE_CHECKING:
    from feast.online_response import OnlineResponse

_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
_TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCALARS: dict[str, tuple[Any, Any]] = {
    "Int32": (-7, feast_types.Int32),
    "Int64": (-(1 << 62), Int64),
    "Float32": (1.5, feast_types.Float32),
    "Float64": (0.1, Float64),
    "Bool": (True, feast_types.Bool),
    "String": ("größer \x00 than", String),
    "Bytes": (b"\x00\xff", feast_types.Bytes),
    "UnixTimestamp": (_TIME, feast_types.UnixTimestamp),
    "Uuid": (_ID, feast_types.Uuid),
    "Decimal": (Decimal("1.10"), feast_types.Decimal),
}
NESTED: dict[str, tuple[Any, Any]] = {
    "Map": ({"a": 1, "b": "x"}, Map),
    "Json": ({"a": [1, None]}, feast_types.Json),
    "list_of_lists": ([[1, 2], [3]], Array(Array(Int64))),
    "long_string": ("x" * 5000, String),
}
COLLECTIONS = {
    **{f"list_{name}": ([value, value], Array(kind)) for name, (value, kind) in SCALARS.items()},
    **{f"set_{name}": ({value}, Set(kind)) for name, (value, kind) in SCALARS.items()},
}
ALL = SCALARS | NESTED | COLLECTIONS


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, connection: str) -> Pair:
    """All views that are needed here, registered once: that takes a second."""
    pair = Pair.open(tmp_path_factory.mktemp("equal"), connection)
    number, meters, tenants = view("a"), view("m", of=[METER]), view("t", of=[TENANT])
    origin = meters.with_name("from").with_join_key_map({"meter_id": "origin_id"})
    target = meters.with_name("to").with_join_key_map({"meter_id": "target_id"})
    lasting = view("c", ttl=None)
    views = [number[["a"]], origin, tenants, lasting]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature")
        pair.apply(
            *(number, meters, tenants, lasting),
            view("types", [Field(name=name, dtype=kind) for name, (_, kind) in ALL.items()]),
            view("b", [Field(name="b", dtype=String)]),
            view("w", of=[]),
            *(on_demand(number, udf) for udf in (by_list, by_row, by_frame)),
            FeatureService(name="short", features=views),
            FeatureService(name="full", features=[*views, target]),
        )
    return pair


def assert_equal(found: OnlineResponse, expected: OnlineResponse) -> None:
    """By every method, before and after the message was looked at."""
    for _ in range(2):
        for times in (False, True):
            assert found.to_dict(times) == expected.to_dict(times)
        names = list(found.to_dict())
        pd.testing.assert_frame_equal(found.to_df(), expected.to_df()[names])
        assert by_name(found) == by_name(expected)
    assert found.proto.metadata.feature_view_metadata == expected.proto.metadata.feature_view_metadata


def keys(*assets: str, tenant: str = "t") -> list[dict[str, str]]:
    return [{"tenant_id": tenant, "asset_id": asset} for asset in assets]


def test_types__values_empty_values_and_missing_rows(pair: Pair) -> None:
    full, empty = keys("full", "empty")
    pair.write(
        pair.stock,
        "types",
        [full | {name: value for name, (value, _) in ALL.items()}, empty | dict.fromkeys(SCALARS)],
    )
    refs = [f"types:{name}" for name in ALL]
    found, expected = pair.both(refs, keys("full", "nobody", "empty", "full"))
    assert_equal(found, expected)
    assert found.to_arrow().to_pydict() == expected.to_arrow().to_pydict() | found.to_arrow().to_pydict()
    assert list(found.to_dict()) == ["tenant_id", "asset_id", *ALL], "in the order of the request"
    assert statuses(found)["Float64"] == ["PRESENT", "NOT_FOUND", "NULL_VALUE", "PRESENT"]
    # one type alone, one row alone: nothing hangs on the neighbours
    for name in ALL:
        assert_equal(*pair.both([f"types:{name}"], keys("full")))


def test_types__a_changed_message__is_what_to_dict_says(pair: Pair) -> None:
    pair.write(pair.ours, "a", [*({**key, "a": 1.0} for key in keys("1"))])
    found, _ = pair.both(["a:a"], keys("1"))
    (value,) = found.proto.results[2].values  # noqa: PD011  # a message
    value.double_val = 5.0
    assert found.to_dict() == {"tenant_id": ["t"], "asset_id": ["1"], "a": [5.0]}


def test_rows__more_than_a_block_with_repetitions(pair: Pair) -> None:
    for name, value in (("a", 0.5), ("b", "x")):
        rows = [key | {name: value * (number + 1)} for number, key in enumerate(keys(*map(str, range(150))))]
        pair.write(pair.ours, name, rows)
    wanted = [str(number * 7 % 170) for number in range(400)]
    found, expected = pair.both(["a:a", "b:b"], keys(*wanted))
    assert_equal(found, expected)
    assert statuses(found)["a"].count("NOT_FOUND") == sum(int(asset) >= 150 for asset in wanted)


@pytest.mark.parametrize("full_names", [False, True])
def test_views__of_several_keys_aliases_and_versions_metadata(pair: Pair, full_names: bool) -> None:
    row = {"tenant_id": "t", "asset_id": "1"}
    pair.write(pair.ours, "a", [row | {"a": 1.0}])
    pair.write(pair.ours, "c", [row | {"c": 2.0, "at": datetime(2000, 1, 1, tzinfo=UTC)}])
    pair.write(pair.ours, "t", [{"tenant_id": "t", "t": 3.0}])
    pair.write(pair.ours, "m", [{"meter_id": 7, "m": 4.0}, {"meter_id": -8, "m": 5.0}])
    rows = [row | {"origin_id": 7, "target_id": -8}, row | {"origin_id": -8, "target_id": 9}]
    found, expected = pair.both(
        pair.ours.get_feature_service("full" if full_names else "short"),
        rows,
        full_feature_names=full_names,
        include_feature_view_version_metadata=True,
    )
    assert_equal(found, expected)
    assert found.to_dict()["c__c" if full_names else "c"] == [2.0, 2.0]
    assert found.to_dict()["from__m" if full_names else "m"] == [4.0, 5.0]


def test_entity_rows__in_every_form(pair: Pair) -> None:
    pair.write(pair.ours, "a", [key | {"a": 1.0} for key in keys("1", "2")])
    pair.write(pair.ours, "m", [{"meter_id": 3, "m": 3.0}])
    strings = RepeatedValue(val=[Value(string_val=text) for text in ("t", "t")])
    forms: list[tuple[str, Any]] = [
        ("a:a", {"tenant_id": ["t", "t"], "asset_id": ("1", "2")}),
        ("a:a", {"tenant_id": strings, "asset_id": [Value(string_val="2"), Value(string_val="x")]}),
        ("a:a", [{"tenant_id": "t", "asset_id": "1", "ignored": 1}]),
        ("a:a", {"tenant_id": ["t"]}),  # part of the key
        ("m:m", [{"meter_id": 3}, {"meter_id": 3.0}]),
        ("m:m", pd.DataFrame({"meter_id": [3, 4]}).to_dict("list")),
    ]
    for feature, rows in forms:
        assert_equal(*pair.both([feature], rows))
    with pytest.warns(UserWarning, match="entity name is deprecated"):
        found = pair.ours.get_online_features(["m:m"], [{"meter": 3}])
    assert found.to_dict() == {"meter_id": [3], "m": [3.0]}


def test_views__without_entity(pair: Pair) -> None:
    pair.write(pair.ours, "a", [key | {"a": 1.0} for key in keys("1")])
    pair.write(pair.ours, "w", [{"__dummy_id": "", "w": 9.0}])
    found, expected = pair.both(["w:w", "a:a"], keys("1", "2"))
    assert_equal(found, expected)
    assert found.to_dict()["w"] == [9.0, 9.0]


def by_list(inputs: Any) -> Any:
    pairs = list(zip(inputs["a"], inputs["b"], strict=True))
    return {
        "twice": [None if a is None else 2 * a for a, _ in pairs],
        "more": [None if a is None else int(a + b) for a, b in pairs],
    }


def by_row(inputs: Any) -> Any:
    return {"twice": 2 * inputs["a"], "more": int(inputs["a"] + inputs["b"])}


def by_frame(inputs: pd.DataFrame) -> pd.DataFrame:
    return inputs.assign(twice=2 * inputs["a"], more=(inputs["a"] + inputs["b"]).astype("int64"))[
        ["twice", "more"]
    ]


def on_demand(source: Any, udf: Any) -> OnDemandFeatureView:
    return OnDemandFeatureView(
        name=udf.__name__,
        sources=[source, RequestSource(name="request", schema=[Field(name="b", dtype=Float64)])],
        schema=[Field(name="twice", dtype=Float64), Field(name="more", dtype=Int64)],
        mode="pandas" if udf is by_frame else "python",
        singleton=udf is by_row,
        udf=udf,
        udf_string=inspect.getsource(udf),
    )


@pytest.mark.parametrize("udf", [by_list, by_row, by_frame])
def test_on_demand__computes_what_feast_computes(pair: Pair, udf: Any) -> None:
    pair.write(pair.ours, "a", [key | {"a": 2.5} for key in keys("1", "2")])
    name = udf.__name__
    rows = [key | {"b": 1.0} for key in keys(*(["1"] if udf is by_row else ["1", "2"]))]
    found, expected = pair.both([f"{name}:more", f"{name}:twice"], rows)
    assert_equal(found, expected)
    assert found.to_dict()["more"] == [3] * len(rows)
    assert "a" not in found.to_dict()
    assert_equal(*pair.both(["a:a", f"{name}:twice"], rows))
    for store in (pair.ours, pair.stock):
        with pytest.raises(RequestDataNotFoundInEntityRowsException, match="b"):
            store.get_online_features([f"{name}:twice"], keys("1"))


def test_on_demand__of_missing_rows_is_null(pair: Pair) -> None:
    pair.write(pair.ours, "a", [key | {"a": 2.5} for key in keys("1")])
    rows = [key | {"b": 1.0} for key in keys("1", "nobody")]
    found, expected = pair.both(["by_list:twice"], rows)
    assert_equal(found, expected)
    assert statuses(found)["twice"] == ["PRESENT", "NULL_VALUE"]


@pytest.mark.parametrize("udf", [by_list, by_row, by_frame])
def test_on_demand__full_names_and_many_rows(pair: Pair, udf: Any) -> None:
    """Feast's own store loses Python views under full names, and all rows but the first of a single row's."""
    pair.write(pair.ours, "a", [key | {"a": 2.5} for key in keys("1", "2")])
    rows = [key | {"b": float(number)} for number, key in enumerate(keys("1", "2"))]
    name = udf.__name__
    found, expected = pair.both([f"{name}:more", "a:a"], rows, full_feature_names=True)
    assert found.to_dict()[f"{name}__more"] == [2, 3]
    assert (f"{name}__more" in expected.to_dict()) == (udf is by_frame)


MISTAKES: list[tuple[list[str], Any]] = [
    (["a:a"], []),
    (["a:a"], [{}]),
    (["a:a"], {"tenant_id": [], "asset_id": []}),
    (["a:a"], {"tenant_id": ["t"], "asset_id": ["1", "2"]}),
    (["a:a"], [{"tenant_id": "t", "asset_id": "1"}, {"tenant_id": "t", "other": "1"}]),
    (["a:a"], [{"tenant_id": "t", "asset_id": "1"}, {"tenant_id": "t"}]),
    (["a:a"], [{"other": 1}]),
    (["a:nope"], [{"tenant_id": "t", "asset_id": "1"}]),
    (["nope:a"], [{"tenant_id": "t", "asset_id": "1"}]),
    (["a"], [{"tenant_id": "t", "asset_id": "1"}]),
    (["a:a", "a:a"], [{"tenant_id": "t", "asset_id": "1"}]),
    ([], [{"tenant_id": "t", "asset_id": "1"}]),
    (["m:m"], [{"meter_id": 1 << 70}]),
    (["m:m"], [{"meter_id": "text"}]),
    (["a:a"], [{"tenant_id": None, "asset_id": "1"}]),
]


def test_mistakes__are_told_as_feast_tells_them(pair: Pair) -> None:
    for features, rows in MISTAKES:
        with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever it is
            pair.stock.get_online_features(features, rows)
        with pytest.raises(expected.type):
            pair.ours.get_online_features(features, rows)


def test_tenants__whose_keys_look_alike__get_their_own_values(pair: Pair) -> None:
    """Every pair of odd names has a value of its own, asked for alone and among all others."""
    odd = [
        "1",
        "11",
        "111",
        "",
        " ",
        "1 ",
        "a|b",
        "b",
        "a",
        "|",
        ":",
        "\x00",
        "\x02\x00\x00\x00",
        "é",
        "e\u0301",
        "x" * 300,
    ]
    rows = [{"tenant_id": tenant, "asset_id": asset} for tenant in odd for asset in odd]
    pair.write(pair.ours, "a", [row | {"a": float(number)} for number, row in enumerate(rows)])
    expected = [float(number) for number in range(len(rows))]
    assert pair.ours.get_online_features(["a:a"], rows).to_dict()["a"] == expected
    for number in range(0, len(rows), 7):
        assert pair.ours.get_online_features(["a:a"], [rows[number]]).to_dict()["a"] == [float(number)]


def test_keys__serialized_another_way__are_refused(pair: Pair) -> None:
    online = pair.ours.provider.online_store
    config = pair.ours.config.model_copy(update={"entity_key_serialization_version": 2})
    table = pair.ours.get_feature_view("a")
    for work in (
        lambda: online.get_online_features(
            config, ["b:b", "c:c", "a:a"], keys("1"), pair.ours.registry, config.project
        ),
        lambda: online.online_write_batch(config, table, [(None, {}, None, None)], None),
        lambda: online.delete_table(config, table),
        lambda: online.delete_entity_values(config, ["tenant_id"]),
        lambda: online.teardown(config, [table], []),
    ):
        with pytest.raises(ValueError, match="entity_key_serialization_version: 2 is not supported"):
            work()
