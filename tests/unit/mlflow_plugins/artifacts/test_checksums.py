from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_plugins.artifacts import folders
from mlflow_plugins.artifacts.folders import EtagVerifier

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 7


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "UPLOAD_PART", PART)


def _never() -> Iterator[bytes]:
    raise AssertionError("the ETag says it all")


def _in_parts(data: bytes, size: int) -> str:
    """The ETag of a multipart upload, as S3 makes it."""
    digests = [hashlib.md5(data[start : start + size]).digest() for start in range(0, len(data), size)]  # noqa: S324
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"  # noqa: S324


def _shown(verifier: EtagVerifier, chunks: list[bytes]) -> bool:
    for chunk in chunks:
        verifier.update(chunk)
    return verifier.agrees(hashlib.sha256(b"".join(chunks)).hexdigest())


@given(chunks=st.lists(st.binary(max_size=20), max_size=6), parts=st.booleans())
def test_etag__of_our_own_uploads__needs_no_second_look(chunks: list[bytes], parts: bool) -> None:
    data = b"".join(chunks)
    whole = hashlib.md5(data).hexdigest()  # noqa: S324
    etag = _in_parts(data, PART) if parts and data else whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "UPLOAD_PART", PART)
        assert _shown(EtagVerifier(f'"{etag}"', _never), chunks)


@given(data=st.binary(min_size=1, max_size=40), place=st.integers(0), parts=st.booleans())
def test_etag__one_flipped_bit__is_seen(data: bytes, place: int, parts: bool) -> None:
    etag = _in_parts(data, PART) if parts else hashlib.md5(data).hexdigest()  # noqa: S324
    copy = bytearray(data)
    copy[place % len(data)] ^= 1
    assert not _shown(EtagVerifier(etag, lambda: iter([data])), [bytes(copy)])


@pytest.mark.parametrize("etag", ["encrypted-no-md5", _in_parts(b"x" * 40, 9), "0" * 32])
def test_etag__that_says_nothing__leaves_it_to_the_source(etag: str) -> None:
    data = b"x" * 40
    assert _shown(EtagVerifier(etag, lambda: iter([data])), [data])
    assert not _shown(EtagVerifier(etag, lambda: iter([data])), [data[1:]])
