"""An export is read where every byte of it is right, and refused with one line everywhere else."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.errors import AiHubError, BadInputError, ConflictError
from ai_hub.registry import bundle
from mlflow_plugins.registration.imports import ExportedVersion, Fingerprint, Lineage, Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES = {"MLmodel": b"flavors: {}\n", "data/model.bin": bytes(range(256)), "empty": b""}
OWN = {"manifest.json": b"{}\n", "metadata.json": b"{}\n", "metrics.json": b"{}\n"}
ORIGIN = Origin(
    server="http://dev.example.org",
    tenant="city-works",
    model="demand",
    version=3,
    semantic_version="v1.2.0",
    manifest_sha256="0" * 64,
    exported_by="ann",
    exported_at="2026-11-30T00:00:00+00:00",
)


def _fingerprints(files: dict[str, bytes]) -> dict[str, Fingerprint]:
    return {
        path: Fingerprint(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    }


def exported(**changes: Any) -> ExportedVersion:
    """A version with `FILES`."""
    fields: dict[str, Any] = {
        "format": 1,
        "origin": ORIGIN,
        "description": None,
        "tags": {},
        "params": {},
        "metrics": {"mae": 1.5, "bias": None},
        "run_tags": {},
        "lineage": Lineage(
            run_id=None,
            source=None,
            author="ann",
            registered_at=None,
            feature_service=None,
            code_version=None,
            datasets=[],
        ),
        "transitions": [],
        "files": _fingerprints(FILES),
        "registry_files": _fingerprints(OWN),
    }
    return ExportedVersion(**{**fields, **changes})


def written(target: Path, version: ExportedVersion | None = None) -> str:
    """Write the version to `target`; returns its SHA-256."""
    files = target.parent / "source"
    for path, content in {**FILES, **OWN}.items():
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_bytes(content)
    return bundle.write(files, version or exported(), target)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["version.zip", "version"])
def test_opened__gives_back_what_was_written__and_leaves_nothing(tmp_path: Path, name: str) -> None:
    sha256 = written(tmp_path / name)
    with bundle.opened(tmp_path / name, sha256) as found:
        assert (found.version, found.sha256) == (exported(), sha256)
        assert contents(found.folder) == FILES
    assert not found.folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_write__the_same_version__is_the_same_bytes_and_overwrites_nothing(tmp_path: Path) -> None:
    written(tmp_path / "one.zip")
    written(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with pytest.raises(ConflictError, match="exists"):
        written(tmp_path / "one.zip")
    with pytest.raises(BadInputError, match="There is no folder"):
        bundle.write(tmp_path / "source", exported(), tmp_path / "missing" / "one.zip")


def _is_refused(archive: Path, content: bytes, place: int, sha256: str) -> bool:
    """Whether the archive with one bit of this byte turned is refused; if not, it is what it was."""
    changed = bytearray(content)
    changed[place] ^= 1 << place % 8
    archive.write_bytes(changed)
    try:
        with bundle.opened(archive, sha256) as found:
            assert (found.version, contents(found.folder)) == (exported(), FILES)
    except BadInputError:
        return True
    return False


def test_opened__any_byte_changed_or_missing__is_refused_or_makes_no_difference(tmp_path: Path) -> None:
    archive = tmp_path / "version.zip"
    sha256 = written(archive)
    content = archive.read_bytes()
    refused = [_is_refused(archive, content, place, sha256) for place in range(0, len(content), 5)]
    # no more than what an archive says about itself is neither looked at nor missed
    counted = len(exported().model_dump_json(by_alias=True, indent=2))
    assert sum(refused) > counted / 5
    for length in [*range(0, len(content), 50), len(content) - 1]:
        archive.write_bytes(content[:length])
        with pytest.raises(BadInputError, match="cannot be imported"), bundle.opened(archive):
            pytest.fail(f"{length} bytes were read")


def _remove(folder: Path) -> None:
    (folder / "files/MLmodel").unlink()


def _add(folder: Path) -> None:
    (folder / "files/more.bin").write_bytes(b"x")


def _grow(folder: Path) -> None:
    (folder / "files/empty").write_bytes(b"x")


def _change(folder: Path) -> None:
    (folder / "files/data/model.bin").write_bytes(bytes(reversed(range(256))))


def _link(folder: Path) -> None:
    (folder / "files/MLmodel").unlink()
    (folder / "files/MLmodel").symlink_to("/etc/hostname")


def _link_folder(folder: Path) -> None:
    (folder / "files/data").rename(folder.parent / "elsewhere")
    (folder / "files/data").symlink_to(folder.parent / "elsewhere")


def _no_document(folder: Path) -> None:
    (folder / "version.json").unlink()


def _no_digest(folder: Path) -> None:
    (folder / "version.json.sha256").unlink()


def _metrics(folder: Path) -> None:
    text = (folder / "version.json").read_text()
    (folder / "version.json").write_text(text.replace("1.5", "1.4"))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_remove, "files/MLmodel is missing"),
        (_add, "'files/more.bin' is no part of it"),
        (_grow, "files/empty has 1 bytes instead of 0"),
        (_change, "files/data/model.bin was changed"),
        (_link, "files/MLmodel is a link"),
        (_link_folder, "files/data is a link"),
        (_no_document, "version.json is missing"),
        (_no_digest, "version.json.sha256 is missing"),
        (_metrics, "version.json was changed"),
    ],
)
def test_opened__folder_that_was_touched__says_what(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    written(tmp_path / "version")
    spoil(tmp_path / "version")
    with pytest.raises(BadInputError, match=why), bundle.opened(tmp_path / "version"):
        pytest.fail("it was read")


def _write_with_checksum(folder: Path, document: dict[str, Any]) -> None:
    """A document that somebody has written with care."""
    text = json.dumps(document).encode()
    (folder / "version.json").write_bytes(text)
    (folder / "version.json.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  version.json\n")


@pytest.mark.parametrize(
    "path", ["../out", "/tmp/out", "data/../../out", "a\\..\\out", "./x", "a//b", "a\0b", ""]
)
def test_opened__path_that_leaves_the_folder__is_refused(tmp_path: Path, path: str) -> None:
    written(tmp_path / "version")
    document = json.loads((tmp_path / "version/version.json").read_text())
    document["files"][path] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    _write_with_checksum(tmp_path / "version", document)
    with (
        pytest.raises(BadInputError, match="is no path inside its folder"),
        bundle.opened(tmp_path / "version"),
    ):
        pytest.fail("it was read")
    archive = tmp_path / "version.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in contents(tmp_path / "version").items():
            packed.writestr(name, content)
        packed.writestr(f"files/{path}", b"x")
    with pytest.raises(AiHubError, match="cannot be imported"), bundle.opened(archive):
        pytest.fail("it was read")
    assert {item.name for item in tmp_path.iterdir()} == {"version", "version.zip"}


def test_opened__document_of_another_kind_or_export__is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "version"
    sha256 = written(folder)
    document = json.loads((folder / "version.json").read_text())
    for change in ({"format": 2}, {"more": 1}, {"files": {"MLmodel": {"size": -1, "sha256": "0" * 64}}}):
        _write_with_checksum(folder, {**document, **change})
        with pytest.raises(BadInputError, match="another version of AI Hub"), bundle.opened(folder):
            pytest.fail("it was read")
    _write_with_checksum(folder, {**document, "description": "another"})
    with pytest.raises(BadInputError, match="it is another export"), bundle.opened(folder, sha256):
        pytest.fail("it was read")
    with pytest.raises(BadInputError, match="There is no file or folder"), bundle.opened(tmp_path / "no"):
        pytest.fail("it was read")


def test_opened__archive_that_unfolds_into_more_than_itself__is_refused(tmp_path: Path) -> None:
    folder, bomb = tmp_path / "version", tmp_path / "bomb.zip"
    written(folder)
    (folder / "files/zeros").write_bytes(bytes(10_000_000))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents(folder).items():
            packed.writestr(name, content)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BadInputError, match="it is compressed"), bundle.opened(bomb):
        pytest.fail("it was read")
    # a hundred names for the same bytes
    with zipfile.ZipFile(bomb, "w") as packed:
        packed.writestr("files/big", bytes(100_000))
        (entry,) = packed.infolist()
        for number in range(100):
            copy = zipfile.ZipInfo(f"files/{number}")
            copy.file_size = copy.compress_size = entry.file_size
            copy.CRC, copy.header_offset = entry.CRC, entry.header_offset
            packed.filelist.append(copy)
    with pytest.raises(BadInputError, match="its files are larger than itself"), bundle.opened(bomb):
        pytest.fail("it was read")


def test_opened__same_file_twice__is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "version.zip"
    written(archive)
    with zipfile.ZipFile(archive, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("files/MLmodel", b"flavors: {x: 1}\n")
    with pytest.raises(BadInputError, match="it holds a file twice"), bundle.opened(archive):
        pytest.fail("it was read")


def test_opened__nothing_of_a_refused_export_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    written(tmp_path / "version")
    _change(tmp_path / "version")
    with pytest.raises(BadInputError), bundle.opened(tmp_path / "version"):
        pytest.fail("it was read")
    assert list(scratch.iterdir()) == []
    shutil.rmtree(tmp_path / "version")
