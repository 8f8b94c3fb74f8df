"""Proof that a copy is its source: what is remembered of a file when it is copied, compared with the copy."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Size of the parts in which larger files are sent and fetched; the ETag of such a file depends on it.
UPLOAD_PART: Final = 8 << 20


class Witness(Protocol):
    """Knows a source; is shown the copy's bytes in order, once."""

    def update(self, chunk: bytes) -> None:
        """The next bytes of the copy."""

    def agrees(self, sha256: str) -> bool:
        """Whether the bytes shown, which have this SHA-256, are the source's."""


@dataclass(frozen=True)
class Sha256Witness:
    """Of a source that was hashed while it passed through this machine."""

    sha256: str

    def update(self, chunk: bytes) -> None:
        """Nothing to do: whoever asks has the SHA-256."""

    def agrees(self, sha256: str) -> bool:
        """Whether it is the source's."""
        return sha256 == self.sha256


class EtagWitness:
    """Of an S3 object that the store copied by itself.

    Its ETag is an MD5 where the object was put whole or in parts of the size we upload; such a one is
    compared in the same pass as everything else. Where it is anything else, the source is read.
    """

    def __init__(self, etag: str, read: Callable[[], Iterator[bytes]]) -> None:
        self._etag = etag.strip('"')
        self._read = read
        self._part_size = UPLOAD_PART if "-" in self._etag else sys.maxsize
        self._room = self._part_size
        self._md5 = _md5()
        self._parts: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        """The next bytes of the copy."""
        rest = memoryview(chunk)
        while rest:
            taken = rest[: self._room]
            self._md5.update(taken)
            self._room -= len(taken)
            rest = rest[len(taken) :]
            if not self._room:
                self._end_part()

    def agrees(self, sha256: str) -> bool:
        """Whether the bytes have the source's ETag, or else its SHA-256."""
        return self._found() == self._etag or sha256_of(self._read()) == sha256

    def _found(self) -> str:
        if self._part_size == sys.maxsize:
            return self._md5.hexdigest()
        if self._room < self._part_size:
            self._end_part()
        return f"{_md5(b''.join(self._parts)).hexdigest()}-{len(self._parts)}"

    def _end_part(self) -> None:
        self._parts.append(self._md5.digest())
        self._md5 = _md5()
        self._room = self._part_size


def sha256_of(chunks: Iterable[bytes]) -> str:
    """SHA-256 of all bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)  # S3's ETag; the seal is a SHA-256
