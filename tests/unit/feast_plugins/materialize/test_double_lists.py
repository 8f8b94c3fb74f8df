"""Lists of doubles have the bytes that Feast's own conversion gives."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from feast import ValueType
from feast.type_map import python_values_to_proto_values

from feast_plugins.materialize import resp
from feast_plugins.materialize.encoding import encode_values


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, -0.0, 2.5], [math.nan, math.inf, 1e-300]],
        [[1.0] * 48] * 3,
        [[float(at) for at in range(192)]],
        [[1.0], [2.0, 3.0]],
        [[1.0, 2.0], None],
        [[], []],
        [],
    ],
    ids=["finite and not", "48", "192", "ragged", "null", "empty", "no rows"],
)
def test_encode_values__of_lists__equals_feasts_bytes(rows: list[Any]) -> None:
    column = pa.array(rows, pa.list_(pa.float64()))
    # a slice of a longer column, as batches are
    for array in (column, pa.concat_arrays([column, column])[len(rows) :]):
        found = resp.join(*encode_values(array, ValueType.DOUBLE_LIST)).to_pylist() if rows else []
        values = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), ValueType.DOUBLE_LIST)
        assert found == [value.SerializeToString() for value in values]
