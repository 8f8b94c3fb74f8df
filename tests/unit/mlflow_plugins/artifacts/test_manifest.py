from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.folders import File, RepositoryFolder, Sha256Verifier, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow_plugins.artifacts.folders import ChecksumVerifier
    from mlflow_plugins.artifacts.manifest import ManifestDigest


@pytest.fixture
def folder(tmp_path: Path) -> RepositoryFolder:
    folder = RepositoryFolder(LocalArtifactRepository(str(tmp_path)))
    folder.write("MLmodel", b"flavors: {}")
    folder.write("data/model.bin", bytes(range(256)) * 8192)
    folder.write("empty", b"")
    folder.write("metadata.json", b"{}")
    folder.write("metrics.json", b"{}")
    return folder


@pytest.fixture
def digest(folder: RepositoryFolder) -> ManifestDigest:
    return _write(folder)


@pytest.mark.parametrize("etag", [None, ""])
def test_listing_digest__file_without_an_etag__is_unknown(etag: str | None) -> None:
    files = {"MLmodel": File(11, '"1"'), "empty": File(0, '"2"')}
    assert manifest.listing_digest(files) is not None
    assert manifest.listing_digest({**files, "empty": File(0, etag)}) is None


def test_write__lists_every_file(folder: RepositoryFolder, digest: ManifestDigest, tmp_path: Path) -> None:
    document = json.loads((tmp_path / "manifest.json").read_bytes())
    assert set(document["files"]) == {"MLmodel", "data/model.bin", "empty", "metadata.json", "metrics.json"}
    assert document["files"]["data/model.bin"]["size"] == 256 * 8192
    assert document["model_name"] == "demand"
    assert digest.file_count == 6
    assert digest.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert manifest.verify(folder, digest) == {
        "manifest": "verified",
        "checked": "sha256",
        "manifest_sha256": digest.manifest_sha256,
        "file_count": 6,
        "size_bytes": digest.size_bytes,
    }


def test_verify__one_flipped_byte__names_the_file(
    folder: RepositoryFolder, digest: ManifestDigest, tmp_path: Path
) -> None:
    path = tmp_path / "data/model.bin"
    content = bytearray(path.read_bytes())
    content[1_000_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(MlflowException, match=r"data/model\.bin .*was changed") as refusal:
        manifest.verify(folder, digest)
    assert refusal.value.get_http_status_code() == 409


def test_verify__missing_added_and_cut_files__are_named(
    folder: RepositoryFolder, digest: ManifestDigest, tmp_path: Path
) -> None:
    (tmp_path / "empty").unlink()
    with pytest.raises(MlflowException, match=r"empty .*is missing"):
        manifest.verify(folder, digest)
    (tmp_path / "empty").touch()
    (tmp_path / "extra").touch()
    with pytest.raises(MlflowException, match=r"extra .*was added"):
        manifest.verify(folder, digest)
    (tmp_path / "extra").unlink()
    (tmp_path / "MLmodel").write_bytes(b"")
    with pytest.raises(MlflowException, match=r"MLmodel .*0 bytes instead of 11"):
        manifest.verify(folder, digest)


def test_verify__a_rewritten_manifest__is_refused(
    folder: RepositoryFolder, digest: ManifestDigest, tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_bytes(b"other")
    (tmp_path / "manifest.json").unlink()
    _write(folder)
    with pytest.raises(MlflowException, match=r"manifest\.json .*was changed"):
        manifest.verify(folder, digest)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(MlflowException, match=r"manifest\.json .*is missing"):
        manifest.verify(folder, digest)


def test_write__a_copy_that_is_not_its_source__is_deleted_and_refused(
    folder: RepositoryFolder, tmp_path: Path
) -> None:
    with pytest.raises(MlflowException, match=r"empty is not what was copied") as refusal:
        _write(folder, empty=Sha256Verifier("0" * 64))
    assert refusal.value.get_http_status_code() == 503
    assert not (tmp_path / "empty").exists()
    assert not (tmp_path / "manifest.json").exists()


def test_write__files_that_nobody_copied__are_refused(folder: RepositoryFolder) -> None:
    verifiers = _witnesses(folder)
    folder.write("stranger", b"")
    with pytest.raises(MlflowException, match="stranger"):
        manifest.write(folder, {}, verifiers, {})


def test_write__files_that_are_not_as_promised__are_refused(folder: RepositoryFolder) -> None:
    with pytest.raises(MlflowException, match=r"empty .*was changed") as refusal:
        manifest.write(folder, {}, _witnesses(folder), {"empty": {"size": 0, "sha256": "0" * 64}})
    assert refusal.value.get_http_status_code() == 409


def _write(folder: RepositoryFolder, **others: ChecksumVerifier) -> ManifestDigest:
    return manifest.write(folder, {"model_name": "demand"}, {**_witnesses(folder), **others}, {})


def _witnesses(folder: RepositoryFolder) -> dict[str, ChecksumVerifier]:
    copied = folder.files().keys() - manifest.RESERVED
    return {path: Sha256Verifier(sha256_of(folder.read(path))) for path in copied}


@pytest.mark.parametrize(
    "taken", [{"manifest.json"}, {"metrics.json", "metadata.json"}, set(manifest.RESERVED)]
)
def test_write__a_model_with_files_of_our_names__keeps_them(tmp_path: Path, taken: set[str]) -> None:
    folder = RepositoryFolder(LocalArtifactRepository(str(tmp_path)))
    model = {"MLmodel": b"flavors: {}"} | {name: f"{name} of the model".encode() for name in taken}
    for path, content in model.items():
        folder.write(path, content)
    verifiers = {path: Sha256Verifier(sha256_of([content])) for path, content in model.items()}
    own = manifest.places(model)
    assert {name for name, path in own.items() if path != name} == taken
    for name in (manifest.METADATA, manifest.METRICS):
        folder.write(own[name], b"{}")
    digest = manifest.write(folder, {}, verifiers, {})
    assert manifest.verify(folder, digest)["file_count"] == len(model) + 3
    listed = manifest.read(folder, digest.manifest_sha256)
    assert manifest.own_files(listed) == set(own.values()) == manifest.added(folder, folder.files())
    assert {path: b"".join(folder.read(path)) for path in model} == model
    (tmp_path / own["manifest.json"]).write_bytes(b"{}")
    with pytest.raises(MlflowException, match="was changed"):
        manifest.verify(folder, digest)


@pytest.mark.parametrize(
    "document",
    [b"", b"\xff", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "files": []}',
     b'{"format": 1, "files": {"metadata.json": {"size": 2}, "metrics.json": {"size": 2}}}', b"[" * 10**5],
)  # fmt: skip
def test_added__only_ours_by_content(folder: RepositoryFolder, document: bytes) -> None:
    folder.write("manifest.json", document)
    assert manifest.added(folder, folder.files()) == frozenset()


def test_places__our_folder__is_no_models() -> None:
    with pytest.raises(MlflowException, match=r"\.ai-hub/x") as refusal:
        manifest.places(["MLmodel", ".ai-hub/x"])
    assert refusal.value.get_http_status_code() == 400
