"""Copies and deletions in a real S3 store, interrupted at every place."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from support.properties import examples
from support.s3_faults import faults, small_pages

from benchmarks.tcp_proxy import proxied
from mlflow_plugins.artifacts import folders, manifest, s3
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack
    from mypy_boto3_s3 import S3Client

    from benchmarks.tcp_proxy import Proxy

BUCKET = "ml-models"
FILES = {f"data/{number}.bin": bytes([number]) * 1000 for number in range(12)} | {"MLmodel": b"{}"}
PART = 5 << 20  # S3's least
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cc", "Cs")),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", ".."})


@pytest.fixture(scope="module")
def client(servers: Stack) -> S3Client:
    servers.start("s3")
    return s3_client()


@pytest.fixture
def place() -> str:
    """A prefix of the test's own."""
    return f"folders/{secrets.token_hex(4)}"


@pytest.fixture
def source(client: S3Client, place: str) -> S3Folder:
    return _filled(client, f"{place}/source", FILES)


@pytest.fixture
def target(client: S3Client, place: str) -> S3Folder:
    return S3Folder(client, BUCKET, f"{place}/target")


def test_copy__again__goes_on_where_it_ended(client: S3Client, source: S3Folder, target: S3Folder) -> None:
    target.write("data/stray.bin", b"of something else")
    target.write("data/3.bin", b"3" * len(FILES["data/3.bin"]))
    client.put_object(Bucket=BUCKET, Key=_key(target, "data/"))
    with (
        faults(client, "CopyObject", after=5),
        pytest.raises(MlflowException, match="does not answer") as refusal,
    ):
        target.copy_from(source, source.files())
    assert refusal.value.get_http_status_code() == 503
    with faults(client) as requests:
        target.copy_from(source, source.files())
    assert requests["CopyObject"] == len(FILES) - 5
    assert _contents(target) == FILES
    assert not _keys(client, target, "data/")
    with faults(client) as requests:
        target.copy_from(source, source.files())
    assert not requests["CopyObject"]


def test_copy__again__after_the_source_changed__copies_what_changed(
    client: S3Client, source: S3Folder, target: S3Folder
) -> None:
    target.copy_from(source, source.files())
    source.write("data/1.bin", b"x" * 1000)
    source.delete_file("data/2.bin")
    with faults(client) as requests:
        target.copy_from(source, source.files())
    assert requests["CopyObject"] == 1
    assert _contents(target) == _contents(source)


def test_copy__of_a_file_that_changed_since_it_was_listed__is_refused(
    source: S3Folder, target: S3Folder
) -> None:
    listed = source.files()
    source.write("data/1.bin", b"x" * 1000)
    with pytest.raises(MlflowException, match=r"data/1\.bin was changed") as refusal:
        target.copy_from(source, listed)
    assert refusal.value.get_http_status_code() == 409
    assert "data/1.bin" not in target.files()
    source.delete_file("data/1.bin")
    with pytest.raises(MlflowException, match=r"data/1\.bin") as refusal:
        target.copy_from(source, listed)
    assert refusal.value.get_http_status_code() == 404


def test_copy__large_files__are_copied_in_parts(
    client: S3Client, source: S3Folder, target: S3Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "COPY_PART", PART)
    large = os.urandom(2 * PART + 1)
    source.write("data/large.bin", large)
    with faults(client, "UploadPartCopy", after=1), pytest.raises(MlflowException, match=r"large\.bin"):
        target.copy_from(source, source.files())
    assert not client.list_multipart_uploads(Bucket=BUCKET, Prefix=_key(target)).get("Uploads")
    assert "data/large.bin" not in target.files()
    with faults(client) as requests:
        verifiers = target.copy_from(source, source.files())
    assert (requests["UploadPartCopy"], requests["CopyObject"]) == (3, 0)
    assert b"".join(target.read("data/large.bin")) == large
    target.write(manifest.METADATA, b"{}")
    target.write(manifest.METRICS, b"{}")
    digest = manifest.write(target, {}, verifiers, {})
    assert manifest.verify(target, digest)["checked"] == "etag"
    assert manifest.verify(target, digest, rehash=True)["checked"] == "sha256"
    listed = source.files()
    source.write("data/large.bin", large[::-1])
    target.delete()
    with pytest.raises(MlflowException, match=r"large\.bin was changed"):
        target.copy_from(source, listed)


def test_copy__that_the_store_made_wrong__is_noticed_and_mended(source: S3Folder, target: S3Folder) -> None:
    verifiers = target.copy_from(source, source.files())
    target.write("data/4.bin", b"bit rot" + FILES["data/4.bin"][7:])
    target.write(manifest.METADATA, b"{}")
    target.write(manifest.METRICS, b"{}")
    with pytest.raises(MlflowException, match=r"data/4\.bin is not what was copied") as refusal:
        manifest.write(target, {}, verifiers, {})
    assert refusal.value.get_http_status_code() == 503
    target.copy_from(source, source.files())
    assert _contents(target) == FILES


def test_verify__takes_one_listing_where_nothing_was_written(
    client: S3Client, source: S3Folder, target: S3Folder
) -> None:
    verifiers = target.copy_from(source, source.files())
    target.write(manifest.METADATA, b"{}")
    target.write(manifest.METRICS, b"{}")
    digest = manifest.write(target, {}, verifiers, {})

    def checked(*, rehash: bool = False) -> tuple[str, dict[str, int]]:
        with faults(client) as requests:
            evidence = manifest.verify(target, digest, rehash=rehash)
        assert evidence["file_count"] == len(target.files())
        return evidence["checked"], dict(requests)

    reads = {"ListObjectsV2": 1, "GetObject": len(FILES) + 3}
    assert checked() == ("etag", {"ListObjectsV2": 1})
    assert checked(rehash=True) == ("sha256", reads)
    # the same bytes, sent in parts, have another ETag: they are hashed, and right
    _send_in_parts(client, _key(target, "MLmodel"), FILES["MLmodel"])
    assert checked() == ("sha256", reads)
    # other bytes of the same size are refused, though the listing differs by the ETag alone
    target.write("data/4.bin", FILES["data/4.bin"][::-1][1:] + b"x")
    with pytest.raises(MlflowException, match=r"data/4\.bin .*was changed since registration"):
        manifest.verify(target, digest)
    # back as it was
    target.write("data/4.bin", FILES["data/4.bin"])
    target.write("MLmodel", FILES["MLmodel"])
    assert checked() == ("etag", {"ListObjectsV2": 1})


def test_download__large_file__is_one_request_and_hashed_on_the_way(
    client: S3Client, source: S3Folder, tmp_path: Path
) -> None:
    large = os.urandom(2 * folders.UPLOAD_PART + 1)
    with (tmp_path / "sent").open("w+b") as sent:
        sent.write(large)
        sent.seek(0)
        client.upload_fileobj(sent, BUCKET, _key(source, "data/large.bin"), Config=s3.TRANSFER)
    local = tmp_path / "large.bin"
    with faults(client) as requests:
        sha256 = source.download("data/large.bin", local)
    assert requests == {"GetObject": 1}
    assert local.read_bytes() == large
    assert sha256 == hashlib.sha256(large).hexdigest()


@pytest.fixture
def proxy(client: S3Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the store and the clients that are made during the test."""
    with proxied(urlsplit(client.meta.endpoint_url).port or 0) as line:
        monkeypatch.setenv("MINIO_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
        yield line
        s3_client().close()


def _resets(proxy: Proxy, chunks: Iterator[bytes], *positions: int) -> Iterator[bytes]:
    """The chunks, where connections are reset after so many MiB."""
    for number, chunk in enumerate(chunks, start=1):
        yield chunk
        if number in positions:
            proxy.reset()


def test_download__connections_reset__is_resumed_where_they_were(
    source: S3Folder, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = os.urandom(40 * folders.CHUNK + 1)
    source.write("data/large.bin", large)
    client = s3_client()
    folder = S3Folder(client, BUCKET, _key(source))
    chunks = folder.read("data/large.bin")
    monkeypatch.setattr(folder, "read", lambda _: _resets(proxy, chunks, 3, 20))
    with faults(client) as requests:
        sha256 = folder.download("data/large.bin", tmp_path / "large.bin")
    assert requests == {"GetObject": 3}
    assert (tmp_path / "large.bin").read_bytes() == large
    assert sha256 == hashlib.sha256(large).hexdigest()


def test_download__file_changed_before_it_is_resumed__is_refused(
    source: S3Folder, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = os.urandom(40 * folders.CHUNK)
    source.write("data/large.bin", large)
    folder = S3Folder(s3_client(), BUCKET, _key(source))
    chunks = folder.read("data/large.bin")

    def changed() -> Iterator[bytes]:
        yield from (next(chunks), next(chunks))
        source.write("data/large.bin", large[::-1])
        yield from _resets(proxy, chunks, 1)

    monkeypatch.setattr(folder, "read", lambda _: changed())
    with pytest.raises(MlflowException, match=r"large\.bin was changed while") as refusal:
        folder.download("data/large.bin", tmp_path / "large.bin")
    assert refusal.value.get_http_status_code() == 409
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("headers", "requests", "message"),
    [
        (b"", 1, "does not answer for"),
        (b'ETag: "1"\r\n', 2, "broke off"),
        (b'ETag: "1"\r\nContent-Range: bytes START-9999/10000\r\n', 1 + s3._RESUMES, "does not answer for"),
    ],
    ids=["without ETag", "without ranges", "breaks always"],
)
def test_download__store_that_breaks_off__is_no_file(
    tmp_path: Path, headers: bytes, requests: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_break_off, args=(listener, headers, requests))
        thread.start()
        client = s3._client(f"http://127.0.0.1:{listener.getsockname()[1]}", "key", "secret")
        with closing(client), pytest.raises(MlflowException, match=rf"{message} .*large\.bin") as refusal:
            S3Folder(client, BUCKET, "demand/v1.0.0").download("large.bin", tmp_path / "large.bin")
        thread.join()
    assert refusal.value.get_http_status_code() == 503
    assert not list(tmp_path.iterdir())


def _break_off(listener: socket.socket, headers: bytes, requests: int) -> None:
    """Answer so many requests with half of the body that the header promises."""
    for _ in range(requests):
        connection, _ = listener.accept()
        with connection:
            start = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", connection.recv(1 << 16))
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + headers + b"\r\n"
            connection.sendall(head.replace(b"START", start[1] if start else b"0") + bytes(500))


def test_download__interrupted__is_no_file(
    source: S3Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.download("MLmodel", tmp_path / "MLmodel")
    assert not list(tmp_path.iterdir())


def test_verify__version_without_a_listing_digest__is_hashed(source: S3Folder, target: S3Folder) -> None:
    verifiers = target.copy_from(source, source.files())
    target.write(manifest.METADATA, b"{}")
    target.write(manifest.METRICS, b"{}")
    digest = replace(manifest.write(target, {}, verifiers, {}), listing_sha256=None)
    assert manifest.verify(target, digest)["checked"] == "sha256"


def test_write__file_exchanged_while_it_is_hashed__is_refused(
    source: S3Folder, target: S3Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifiers = target.copy_from(source, source.files())
    target.write(manifest.METADATA, b"{}")
    target.write(manifest.METRICS, b"{}")
    listed = target.files()
    monkeypatch.setattr(target, "files", lambda: listed)  # the write comes after the listing
    target.write("data/4.bin", b"x" * 1000)
    with pytest.raises(MlflowException, match=r"data/4\.bin was changed while it was being read"):
        manifest.write(target, {}, verifiers, {})


def _send_in_parts(client: S3Client, key: str, body: bytes) -> None:
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    part = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=body)
    client.complete_multipart_upload(
        Bucket=BUCKET,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )


def test_unfinished_uploads__of_a_killed_copy__are_ended_by_the_next_copy_and_by_deletion(
    client: S3Client, source: S3Folder, target: S3Folder
) -> None:
    target.write("data/1.bin", b"what else the killed one copied")
    for end in (lambda: target.copy_from(source, source.files()), target.delete):
        client.create_multipart_upload(Bucket=BUCKET, Key=_key(target, "data/large.bin"))
        end()
        assert not client.list_multipart_uploads(Bucket=BUCKET, Prefix=_key(target)).get("Uploads")


def test_delete__removes_exactly_the_folder(
    client: S3Client, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_DELETE_BATCH", 2)
    similar = ("demand/v1.0.01", "demand/v1.0.0-x", "demand/v1.0.0x", "demand-x/v1.0.0", "deman/v1.0.0", "x")
    others = {name: _filled(client, f"{place}/{name}", FILES) for name in similar}
    doomed = _filled(client, f"{place}/demand/v1.0.0", FILES)
    client.put_object(Bucket=BUCKET, Key=_key(doomed, "data/"))
    client.put_object(Bucket=BUCKET, Key=f"{place}/demand/v1.0.0.txt", Body=b"beside")
    with small_pages(client, 5):
        assert doomed.delete() == sorted(FILES)
    assert not _keys(client, doomed)
    for other in others.values():
        assert _contents(other) == FILES
    assert client.head_object(Bucket=BUCKET, Key=f"{place}/demand/v1.0.0.txt")
    assert doomed.delete() == []


def test_delete__that_the_store_refuses__is_a_503(client: S3Client, source: S3Folder) -> None:
    with faults(client, "DeleteObjects"), pytest.raises(MlflowException, match="does not answer") as refusal:
        source.delete()
    assert refusal.value.get_http_status_code() == 503
    assert _contents(source) == FILES


@settings(max_examples=examples(6))
@given(
    names=st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=5), page=st.integers(1, 3)
)
def test_copy__any_names(client: S3Client, names: set[str], page: int) -> None:
    # a name cannot be a file and a folder in every store
    names = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    place = f"folders/{secrets.token_hex(4)}"
    files = {name: name.encode() for name in names}
    source, target = _filled(client, f"{place}/a", files), S3Folder(client, BUCKET, f"{place}/ab")
    with small_pages(client, page):
        target.copy_from(source, source.files())
        assert _contents(target) == files
        assert target.delete() == sorted(files)
    assert _contents(source) == files


def _filled(client: S3Client, prefix: str, files: dict[str, bytes]) -> S3Folder:
    folder = S3Folder(client, BUCKET, prefix)
    for path, content in files.items():
        folder.write(path, content)
    return folder


def _contents(folder: S3Folder) -> dict[str, bytes]:
    return {path: b"".join(folder.read(path)) for path in folder.files()}


def _key(folder: S3Folder, path: str = "") -> str:
    return str(folder).removeprefix(f"s3://{BUCKET}/") + path


def _keys(client: S3Client, folder: S3Folder, path: str = "") -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=_key(folder, path)).get("Contents", [])
    return [item["Key"] for item in found if not path or item["Key"].endswith("/")]


def test_folder__says_what_one_file_is__and_lists_no_more_than_was_asked_for(
    client: S3Client, source: S3Folder
) -> None:
    with faults(client) as requests:
        assert {path: source.file(path) for path in FILES} == source.files()
        assert [source.file(path) for path in ("data", "data/1", "data/1.bin.png", "1.bin")] == [None] * 4
    assert requests["ListObjectsV2"] == len(FILES) + 5
    assert [len(source.files(most)) for most in (1, 5, 100)] == [1, 5, len(FILES)]
