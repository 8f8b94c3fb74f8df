"""On-demand features of history are the same, whether each row or each distinct input is computed."""

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, OnDemandFeatureView, ValueType
from feast.types import Array, Float64, Int64
from hypothesis import given
from hypothesis import strategies as st

from feast_plugins.offline.on_demand import once_per_input

TIMES = st.lists(st.none() | st.integers(-4, 4) | st.integers(-(2**60), 2**60), max_size=30)


def view(tags: dict[str, str], calls: list[int], inputs: tuple[str, ...] = ("time",)) -> OnDemandFeatureView:
    """View `later` of one number, which notes how many rows each call has."""
    hours = FeatureView(
        name="hours",
        entities=[Entity(name="asset", join_keys=["asset"], value_type=ValueType.STRING)],
        schema=[Field(name=name, dtype=Int64) for name in inputs],
        source=FileSource(path="none.parquet", timestamp_field="at"),
    )

    def later(columns: dict[str, list[int | None]]) -> dict[str, list[int | None]]:
        calls.append(len(columns["time"]))
        return {"next": [None if time is None else time + 1 for time in columns["time"]]}

    return OnDemandFeatureView(
        name="later",
        sources=[hours],
        schema=[Field(name="next", dtype=Int64)],
        mode="python",
        udf=later,
        udf_string="later",
        tags=tags,
    )


@given(
    times=TIMES, pieces=st.integers(1, 3), name=st.sampled_from(["time", "hours__time"]), full=st.booleans()
)
def test_features_are_those_of_each_row(times: list[int | None], pieces: int, name: str, full: bool) -> None:
    calls: list[int] = []
    plain = view({"deterministic": "true"}, calls)
    chunks = [times[piece::pieces] for piece in range(pieces)]
    rows = pa.table(
        {
            "asset": pa.chunked_array([["a"] * len(chunk) for chunk in chunks], pa.string()),
            name: pa.chunked_array(chunks, pa.int64()),
        }
    )
    computed = once_per_input(plain).transform_arrow(rows, full)
    assert calls.pop() == len(set(times))
    assert computed.column_names == ["later__next" if full else "next"]
    expected = plain.transform_arrow(rows, full)[computed.column_names[0]]
    assert computed.column(0).to_pylist() == expected.to_pylist()


def test_input_is_a_list__each_row_is_computed() -> None:
    calls: list[int] = []

    def first(columns: dict[str, list[list[float]]]) -> dict[str, list[float]]:
        calls.append(len(columns["curve"]))
        return {"first": [curve[0] for curve in columns["curve"]]}

    curves = FeatureView(
        name="curves",
        entities=[Entity(name="asset", join_keys=["asset"], value_type=ValueType.STRING)],
        schema=[Field(name="curve", dtype=Array(Float64))],
        source=FileSource(path="none.parquet", timestamp_field="at"),
    )
    plain = OnDemandFeatureView(
        name="firsts",
        sources=[curves],
        schema=[Field(name="first", dtype=Float64)],
        mode="python",
        udf=first,
        udf_string="first",
        tags={"deterministic": "true"},
    )
    calls.clear()
    rows = pa.table({"curve": [[1.5, 2.0], [1.5, 2.0], [3.0]]})
    computed = once_per_input(plain).transform_arrow(rows)
    assert (computed["first"].to_pylist(), calls) == ([1.5, 1.5, 3.0], [3])


@pytest.mark.parametrize(
    ("tags", "inputs"),
    [({}, ("time",)), ({"deterministic": "no"}, ("time",)), ({"deterministic": "true"}, ("time", "other"))],
)
def test_others_stay_as_they_are(tags: dict[str, str], inputs: tuple[str, ...]) -> None:
    plain = view(tags, [], inputs)
    assert once_per_input(plain) is plain
