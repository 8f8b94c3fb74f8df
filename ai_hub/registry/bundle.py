"""An exported version on disk: a folder, or the same in one `.zip`; it is read where every byte is right.

    version.json            the document (see `imports.ExportedVersion`), with the SHA-256 of every file
    version.json.sha256     its SHA-256, as `sha256sum -c` reads it
    files/…                 the version's files

The archive is not compressed, so it never unfolds into more than its own size.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from pydantic import ValidationError

from ai_hub.errors import BadInputError, ConflictError
from mlflow_plugins.registration.imports import ExportedVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.registration.imports import Fingerprint

DOCUMENT: Final = "version.json"
DIGEST: Final = "version.json.sha256"
FILES: Final = "files"
ARCHIVE: Final = ".zip"
#: Bytes of the document.
_LARGEST: Final = 64_000_000
_CHUNK: Final = 1 << 20
#: What `zipfile` raises on archives that were cut or changed.
_DAMAGED: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    struct.error,
)


class Bundle(NamedTuple):
    """A verified export: its document, the SHA-256 of that, and a folder with the model's files alone."""

    version: ExportedVersion
    sha256: str
    folder: Path


class _Source(Protocol):
    def sizes(self) -> dict[str, int]:
        """Every file by its path, with its bytes."""

    def open(self, path: str) -> IO[bytes]:
        """The contents of a file."""


def write(files: Path, version: ExportedVersion, target: Path) -> str:
    """Write `version` and the folder `files` to `target`, wholly or not at all; returns the SHA-256.

    Raises:
        ConflictError: there is something already.
        BadInputError: its folder is missing.
    """
    if target.exists() or target.is_symlink():
        raise ConflictError(f"{target} exists.", hint="Choose another name, or remove it.")
    if not target.parent.is_dir():
        raise BadInputError(f"There is no folder {target.parent}.", hint="Make it first.")
    document = version.model_dump_json(by_alias=True, indent=2).encode()
    sha256 = hashlib.sha256(document).hexdigest()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch, "export")
        folder.mkdir()
        (folder / DOCUMENT).write_bytes(document)
        (folder / DIGEST).write_text(f"{sha256}  {DOCUMENT}\n")
        shutil.move(files, folder / FILES)
        if target.suffix == ARCHIVE:
            _pack(folder, made := Path(scratch, "export.zip"))
        else:
            made = folder
        made.rename(target)
    return sha256


@contextmanager
def opened(path: Path, sha256: str | None = None) -> Iterator[Bundle]:
    """The export at `path`, every byte of it checked, for the block.

    Args:
        path: a folder or an archive.
        sha256: what `write` returned; the export is another one if it differs.

    Raises:
        BadInputError: it is no export, or not as it was written.
    """
    with tempfile.TemporaryDirectory(prefix="ai-hub-import-") as scratch:
        if path.is_dir():
            yield _read(path, _Folder(path), sha256, Path(scratch))
            return
        try:
            archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise BadInputError(f"There is no file or folder {path}.") from None
        except _DAMAGED as error:
            raise _damaged(path, error) from error
        with archive:
            yield _read(path, _Archive(path, archive), sha256, Path(scratch))


def _read(path: Path, source: _Source, sha256: str | None, scratch: Path) -> Bundle:
    try:
        sizes = source.sizes()
        for name in (DOCUMENT, DIGEST):
            if name not in sizes:
                _refuse(path, f"{name} is missing")
        if sizes[DOCUMENT] > _LARGEST or sizes[DIGEST] > _CHUNK:
            _refuse(path, f"{DOCUMENT} has more than {_LARGEST:,} bytes")
        with source.open(DOCUMENT) as stream:
            document = stream.read()
        with source.open(DIGEST) as stream:
            stated = stream.read()
        digest = hashlib.sha256(document).hexdigest()
        if stated != f"{digest}  {DOCUMENT}\n".encode():
            _refuse(path, f"{DOCUMENT} was changed")
        if sha256 not in {None, digest}:
            _refuse(path, f"its SHA-256 is {digest}, not {sha256}: it is another export")
        version = _parsed(path, document)
        listed = {**version.files, **version.registry_files}
        for name in listed:
            _check_path(path, name)
        _check_listing(path, sizes, listed)
        for name, entry in listed.items():
            kept = scratch.joinpath(*PurePosixPath(name).parts) if name in version.files else None
            _copy(path, source, name, entry, kept)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return Bundle(version, digest, scratch)


def _check_listing(path: Path, sizes: dict[str, int], listed: dict[str, Fingerprint]) -> None:
    expected = {f"{FILES}/{name}": entry.size for name, entry in listed.items()}
    present = {name: size for name, size in sizes.items() if name not in {DOCUMENT, DIGEST}}
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            _refuse(path, f"{name} is missing")
        if name not in expected:
            _refuse(path, f"{name!a} is no part of it")
        if present[name] != expected[name]:
            _refuse(path, f"{name} has {present[name]:,} bytes instead of {expected[name]:,}")


def _copy(path: Path, source: _Source, name: str, entry: Fingerprint, local: Path | None) -> None:
    """Hash a file, and keep it at `local`."""
    digest = hashlib.sha256()
    if local is not None:
        local.parent.mkdir(parents=True, exist_ok=True)
    with source.open(f"{FILES}/{name}") as stream, (local or Path(os.devnull)).open("wb") as copy:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != entry.sha256:
        _refuse(path, f"{FILES}/{name} was changed")


def _parsed(path: Path, document: bytes) -> ExportedVersion:
    try:
        return ExportedVersion.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        _refuse(path, f"{DOCUMENT} is of another version of AI Hub ({place}: {first['msg']})")


def _check_path(path: Path, name: str) -> None:
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in name or not name.isprintable():
        _refuse(path, f"{name!a} is no path inside its folder")


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, folders, names in os.walk(self._root):
            for name in (*folders, *names):
                local = Path(folder, name)
                status = local.lstat()
                if stat.S_ISREG(status.st_mode):
                    found[local.relative_to(self._root).as_posix()] = status.st_size
                elif not stat.S_ISDIR(status.st_mode):
                    _refuse(self._root, f"{local.relative_to(self._root)} is a link or no file")
        return found

    def open(self, path: str) -> IO[bytes]:
        return self._root.joinpath(*PurePosixPath(path).parts).open("rb")


class _Archive:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive

    def sizes(self) -> dict[str, int]:
        entries = self._archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            _refuse(self._path, "it is compressed, which exports are not. Unpack it, and import the folder")
        sizes = {entry.filename: entry.file_size for entry in entries}
        if len(sizes) != len(entries):
            _refuse(self._path, "it holds a file twice")
        # entries that share their bytes could stand for any amount
        if sum(sizes.values()) > self._path.stat().st_size:
            _refuse(self._path, "its files are larger than itself")
        return sizes

    def open(self, path: str) -> IO[bytes]:
        return self._archive.open(path)


def _pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_STORED) as made:
        for local in sorted(folder.rglob("*")):
            if local.is_file():
                # a fixed time: the same version is the same bytes
                entry = zipfile.ZipInfo(local.relative_to(folder).as_posix())
                entry.external_attr = 0o644 << 16
                entry.file_size = local.stat().st_size
                with local.open("rb") as stream, made.open(entry, "w") as packed:
                    shutil.copyfileobj(stream, packed, _CHUNK)


def _refuse(path: Path, why: str) -> NoReturn:
    raise BadInputError(f"{path} cannot be imported: {why}.", hint="Nothing was imported. Export it again.")


def _damaged(path: Path, error: Exception) -> BadInputError:
    return BadInputError(
        f"{path} cannot be imported: it is no export, or was cut or changed ({error}).",
        hint="Nothing was imported. Export it again.",
    )
