from __future__ import annotations

from typing import Any

import pytest
from feast import ValueType
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from hypothesis import example, given
from hypothesis import strategies as st

from feast_plugins.online import encoding

#: Without surrogates, which have no UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True)
VALUES: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.STRING: TEXT.filter(bool) | st.text("01*?[\\", min_size=1, max_size=5),
    ValueType.INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    ValueType.INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    ValueType.BYTES: st.binary(min_size=1, max_size=12),
    ValueType.UNIX_TIMESTAMP: st.datetimes().map(lambda time: time.replace(microsecond=0)),
}
ENTITY = st.dictionaries(
    TEXT.filter(bool),
    st.sampled_from(list(VALUES)).flatmap(lambda kind: VALUES[kind].map(lambda value: (kind, value))),
    min_size=1,
    max_size=3,
)


def our_key(entity: dict[str, tuple[ValueType, Any]], project: str) -> bytes:
    parts = [encoding.encode_column([value], kind).parts[0] for _, (kind, value) in sorted(entity.items())]
    return encoding.prefix(entity) + b"".join(parts) + project.encode()


@given(ENTITY, TEXT)
def test_key__is_feasts_byte_by_byte(entity: dict[str, tuple[ValueType, Any]], project: str) -> None:
    protos = [python_values_to_proto_values([value], kind)[0] for kind, value in entity.values()]
    stock = EntityKey(join_keys=list(entity), entity_values=protos)
    assert our_key(entity, project) == _redis_key(project, stock)
    actual = encoding.encode_column(
        [value for _, value in [*entity.values()][:1]], next(iter(entity.values()))[0]
    )
    assert actual.values[0] == protos[0].SerializeToString(deterministic=True)


@given(ENTITY, TEXT)
def test_key__tells_its_join_keys_and_its_project(
    entity: dict[str, tuple[ValueType, Any]], project: str
) -> None:
    assert encoding.parse(our_key(entity, project)) == (tuple(sorted(entity)), project)


PAIR = st.tuples(TEXT, TEXT, TEXT)


@given(PAIR, PAIR)
@example(("1", "11", "energy"), ("11", "1", "energy"))
@example(("1", "1", "energy"), ("1", "1", "prod_energy"))
@example(("a", "bprod_", "energy"), ("a", "b", "prod_energy"))
@example(("", "1", "p"), ("1", "", "p"))
def test_key__of_another_tenant_asset_or_project__is_another(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    def key(of: tuple[str, str, str]) -> bytes:
        parts = encoding.string_parts([text.encode() for text in of[:2]])
        return encoding.prefix(["tenant_id", "asset_id"]) + b"".join(parts) + of[2].encode()

    assert (key(one) == key(other)) == (one == other)


@given(st.binary(max_size=60))
def test_parse__of_anything__is_a_key_or_refused(text: bytes) -> None:
    try:
        names, project = encoding.parse(text)
    except encoding.NotOurKeyError:
        return
    assert text.startswith(encoding.prefix(names))
    assert text.endswith(project.encode())


def test_parse__of_a_key_that_is_cut__is_refused() -> None:
    whole = our_key({"tenant_id": (ValueType.STRING, "city"), "asset_id": (ValueType.INT64, 1)}, "")
    for end in range(len(whole)):
        with pytest.raises(encoding.NotOurKeyError):
            encoding.parse(whole[:end])


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@given(data=st.data())
def test_columns__of_many_rows__are_encoded_as_each_alone(rows: int, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(VALUES)))
    few = data.draw(st.lists(VALUES[kind], min_size=1, max_size=3))
    values = [few[row % len(few)] for row in range(rows)]
    actual = encoding.encode_column(values, kind)
    alone = [encoding.encode_column([value], kind) for value in values]
    assert actual.values == [item.values[0] for item in alone]
    parts = actual.parts if len(actual.parts) == rows else list(actual.parts) * rows
    assert parts == [item.parts[0] for item in alone]
