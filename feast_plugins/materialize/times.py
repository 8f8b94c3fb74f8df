"""Event times as serialized `google.protobuf.Timestamp` messages, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.materialize.ragged import tagged_varints

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from feast_plugins.materialize.ragged import Pieces

_SECONDS_TAG, _NANOS_TAG = b"\x08", b"\x10"  # fields 1 and 2, both varints; a zero is left out
_MICROS = 1_000_000


def micros(column: pa.Array) -> NDArray[np.int64]:
    """Microseconds since 1970 of a column of times."""
    return np.asarray(column.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(np.int64))


def encode(times: NDArray[np.int64]) -> Pieces:
    """Serialized `Timestamp` of each time in microseconds since 1970."""
    seconds, rest = np.divmod(times, _MICROS)
    return (
        tagged_varints(_SECONDS_TAG, seconds, seconds == 0),
        tagged_varints(_NANOS_TAG, rest * 1000, rest == 0),
    )


def is_current(times: NDArray[np.int64], stored: Sequence[bytes | None], *, equal: bool) -> NDArray[np.bool_]:
    """Whether each time (µs since 1970) is newer than the stored message, or as new if `equal`.

    A time of which nothing is stored is newer.
    """
    least: dict[bytes | None, int] = {None: np.iinfo(np.int64).min}
    for message in set(stored) - {None}:
        stamp = Timestamp()
        stamp.ParseFromString(message)
        nanos = int(stamp.ToNanoseconds())
        # the first microsecond that counts
        least[message] = -(-nanos // 1000) if equal else nanos // 1000 + 1
    known = np.fromiter((least[message] for message in stored), np.int64, len(stored))
    return np.asarray(times >= known)
