"""Commands are those that a Redis reads back."""

from __future__ import annotations

from typing import Any

import hiredis
import pyarrow as pa
from feast import ValueType
from hypothesis import given
from hypothesis import strategies as st

from feast_plugins.materialize import encoding, resp
from feast_plugins.materialize.encoding import data_of, lengths_of


def parsed(commands: pa.BinaryArray) -> list[Any]:
    return parsed_bytes(bytes(data_of(commands)))


def parsed_bytes(sent: bytes) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(sent)
    actual = []
    while (reply := reader.gets()) is not False:
        actual.append(reply)
    return actual


@given(
    rows=st.lists(
        st.tuples(st.binary(max_size=30), st.none() | st.text(), st.none() | st.floats()), min_size=1
    ),
    ttl=st.none() | st.integers(1, 10**9),
    first=st.integers(0, 3),
)
def test_hset__is_read_as_sent(
    rows: list[tuple[bytes, str | None, float | None]], ttl: int | None, first: int
) -> None:
    raw, texts, numbers = zip(*rows, strict=True)
    keys = resp.join(*resp.bulk((pa.array(raw, pa.binary()),)))
    columns = {
        b"text": encoding.encode_values(pa.array(texts, pa.string()), ValueType.STRING),
        b"_n:1": encoding.encode_values(pa.array(numbers, pa.float64()), ValueType.DOUBLE),
    }
    plain = {name: resp.join(*pieces).to_pylist() for name, pieces in columns.items()}
    commands = resp.hset(keys, list(columns.items()), ttl).slice(first)
    expected: list[list[bytes]] = []
    for row, key in list(enumerate(raw))[first:]:
        expected.append([b"HSET", key, b"text", plain[b"text"][row], b"_n:1", plain[b"_n:1"][row]])
        if ttl:
            expected.append([b"EXPIRE", key, str(ttl).encode()])
    assert parsed(commands) == expected
    assert parsed_bytes(bytes(resp.exists(keys))) == [[b"EXISTS", *raw]]
    assert parsed(resp.hget(keys, b"_ts:v")) == [[b"HGET", key, b"_ts:v"] for key in raw]


def test_lengths_of__sum_of_the_pieces() -> None:
    pieces = (pa.array([b"a", b"bcd"]), pa.scalar(b"xy"), pa.array([b"", b"e", b"f"]).slice(1))
    assert lengths_of(pieces).tolist() == [4, 6]
