"""Byte strings of many rows at once: built as a matrix, kept as an Arrow array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    #: Arrays and scalars whose bytes, joined row by row, are the whole.
    Pieces = tuple[pa.BinaryArray | pa.BinaryScalar, ...]

BINARY = pa.binary()
_VARINT_BYTES = 10
_VARINT_BITS = 7


def constant(value: bytes) -> pa.BinaryScalar:
    """The same bytes in every row."""
    return pa.scalar(value, BINARY)


def pack(matrix: NDArray[np.uint8], lengths: NDArray[np.int64] | None = None) -> pa.BinaryArray:
    """The first bytes of each row of `matrix`, as many as its length; all of them without lengths."""
    rows, width = matrix.shape
    if lengths is None:
        ends = np.arange(1, rows + 1, dtype=np.int64) * width
        data = matrix.ravel()
    else:
        ends = np.cumsum(lengths)
        data = matrix[np.arange(width) < lengths[:, None]]
    offsets = np.zeros(rows + 1, np.int32)
    offsets[1:] = ends
    return pa.Array.from_buffers(BINARY, rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def varint(value: int) -> bytes:
    """Protocol Buffers' base 128 varint of a number from 0."""
    out = bytearray()
    while value >= 1 << _VARINT_BITS:
        out.append(value & 0x7F | 0x80)
        value >>= _VARINT_BITS
    out.append(value)
    return bytes(out)


def varints(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Varint of each value in its row of a matrix, and its length; negative values take ten bytes."""
    unsigned = values.view(np.uint64)
    lengths = np.ones(len(values), np.int64)
    for place in range(1, _VARINT_BYTES):
        lengths += unsigned >= np.uint64(1 << (_VARINT_BITS * place))
    width = int(lengths.max(initial=1))
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(_VARINT_BITS)
    matrix: NDArray[np.uint8] = (unsigned[:, None] >> shifts).astype(np.uint8)
    matrix &= 0x7F
    matrix[np.arange(width) < lengths[:, None] - 1] |= 0x80
    return matrix, lengths


def tagged_varints(
    tag: bytes, values: NDArray[np.int64], absent: NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """`tag` and the varint of each value; nothing where it is absent."""
    digits, lengths = varints(values)
    matrix = np.empty((len(values), len(tag) + digits.shape[1]), np.uint8)
    matrix[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    matrix[:, len(tag) :] = digits
    lengths += len(tag)
    if absent is not None:
        lengths[absent] = 0
    return pack(matrix, lengths)


def by_length(lengths: NDArray[np.int64], make: Callable[[int], bytes]) -> pa.BinaryArray:
    """What `make` gives for each length, computed once for each that occurs."""
    found = pa.array(lengths).dictionary_encode()
    return pa.array([make(length) for length in found.dictionary.to_pylist()], BINARY).take(found.indices)


def lengths_of(pieces: Pieces) -> NDArray[np.int64]:
    """Length of the bytes of each row; one of the pieces is an array."""
    total: NDArray[np.int64] | np.int64 = np.int64(0)
    for piece in pieces:
        if isinstance(piece, pa.Scalar):
            total = total + len(piece.as_py())
        else:
            total = total + np.diff(offsets_of(piece)).astype(np.int64)
    return np.asarray(total)


def offsets_of(array: pa.BinaryArray) -> NDArray[np.int32]:
    """Where in its buffer each row begins, and where the last ends."""
    offsets = np.frombuffer(array.buffers()[1], np.int32)
    return offsets[array.offset : array.offset + len(array) + 1]


def data_of(array: pa.BinaryArray) -> memoryview:
    """The bytes of all rows, one after another."""
    if not len(array):
        return memoryview(b"")
    offsets = offsets_of(array)
    return memoryview(array.buffers()[2])[offsets[0] : offsets[-1]]
