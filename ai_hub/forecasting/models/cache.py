"""A model's versions on disk, shared by all processes of a machine.

::

    {cache}/{registry}/{tenant}/{model}/
        {version}-{digest}/… complete and verified, or absent
        production.json      the version last seen in Production; its mtime: when it was
        .partial-…           a download, locked by its process while that lives
        .lock                shared while a version is read, exclusive while folders change

Files are verified before they are used, as they are code: they must be what was registered, and no other user
may have written them. `mlflow_plugins.artifacts.manifest` writes the manifest; it imports MLflow, for which a
start from the cache must not wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting.models.registry import ProductionVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


#: Names the folder of the cache, if it is not the user's own.
CACHE_VARIABLE = "AI_HUB_CACHE_DIR"
MANIFEST = "manifest.json"
#: Its folder when the model has a file of that name itself.
ASIDE = ".ai-hub"


class UnusableCacheError(BadInputError):
    """The model cache cannot be used as it is."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(
            f"The model cache is not used: {path} {what}.",
            hint=f"Give cache_dir=…, or set {CACHE_VARIABLE}, to a folder that is yours alone "
            "(`chmod go-w`), or does not exist yet.",
        )


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents, for this user alone."""
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)


def require_private(*folders: Path) -> None:
    """Make sure that no other user can have written what is in these folders.

    Raises:
        UnusableCacheError: names the first that another user can have written.
    """
    for folder in folders:
        if flaw := find_flaw(folder):
            raise UnusableCacheError(folder, flaw)


def find_flaw(path: Path) -> str | None:
    """Why another user can have written it; None when none can."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "is a link"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return None


class TamperedError(ConflictError):
    """A cached file is not what was registered."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(
            f"{path} {what} since it was verified, so it is not used.",
            hint="It is downloaded again when the registry answers.",
        )


def verify_files(folder: Path, manifest_sha256: str) -> None:
    """Make sure that `folder` holds exactly what the manifest with this SHA-256 lists.

    Raises:
        TamperedError: names the first file that is missing, changed or not listed.
    """
    own = folder / ASIDE / MANIFEST
    if not own.is_file():
        own = folder / MANIFEST
    if not own.is_file():
        raise TamperedError(own, "is missing")
    document = own.read_bytes()
    if hashlib.sha256(document).hexdigest() != manifest_sha256:
        raise TamperedError(own, "was changed")
    listed = {folder / name: str(entry["sha256"]) for name, entry in json.loads(document)["files"].items()}
    # a link could lead to what changes after the check
    present = {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()} - {own}
    for path in sorted(listed.keys() | present):
        if path not in listed:
            raise TamperedError(path, "was added")
        if path not in present:
            raise TamperedError(path, "is missing")
        if path.is_symlink() or _sha256(path) != listed[path]:
            raise TamperedError(path, "was changed")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_log = logging.getLogger("ai_hub.client")
_POINTER = "production.json"
_PARTIAL = ".partial-"
_KEPT = 2
#: of a hash, so that folders differ by it
_PREFIX = 12


def default_folder() -> Path:
    """`models` in AI_HUB_CACHE_DIR, or in the user's cache folder."""
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured).expanduser() / "models"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "ai-hub" / "models"


class ModelCache:
    """Versions of one model of one tenant in the registry that has this address, without a login."""

    def __init__(self, root: Path, registry: str, tenant: str, model: str) -> None:
        root = root.resolve()  # a link that others may turn leads elsewhere later
        key = hashlib.sha256(registry.encode()).hexdigest()[:_PREFIX]
        self.folder = root / key / _part(tenant) / _part(model)
        self._levels = (root, *reversed(self.folder.parents[:2]), self.folder)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No version goes away during the block."""
        with self._lock(fcntl.LOCK_SH):
            yield

    def path(self, version: ProductionVersion) -> Path:
        """Folder of a version, whether or not it is there."""
        return self.folder / _part(f"{version.label}-{version.manifest_sha256[:_PREFIX]}")

    def verified(self, version: ProductionVersion) -> Path:
        """Folder of a version, after checking each of its files.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        path = self.path(version)
        with _readable_errors(path):
            if os.path.lexists(path) and find_flaw(path):
                raise TamperedError(path, "was opened to other users")
            verify_files(path, version.manifest_sha256)
        return path

    def last(self) -> ProductionVersion | None:
        """The version last seen in Production; None when the cache does not say."""
        pointer = self.folder / _POINTER
        with _readable_errors(pointer), suppress(FileNotFoundError, ValueError, TypeError):
            self._prepare()
            if flaw := find_flaw(pointer):
                _log.warning("%s %s, so it is not used", pointer, flaw)
                return None
            return ProductionVersion(**json.loads(pointer.read_text()))
        return None

    def checked_at(self) -> datetime | None:
        """When the version of `last` was last seen in Production."""
        pointer = self.folder / _POINTER
        with _readable_errors(pointer), suppress(FileNotFoundError):
            return datetime.fromtimestamp(pointer.stat().st_mtime, UTC)
        return None

    def remember(self, version: ProductionVersion) -> None:
        """Record that `version`, which was verified, is in Production now, if it is still in the cache."""
        with _readable_errors(self.folder):
            if version == self.last():
                os.utime(self.folder / _POINTER)
            elif self.path(version).exists():
                self._point_to(version)

    def _point_to(self, version: ProductionVersion) -> None:
        document = json.dumps(asdict(version), indent=2, sort_keys=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".pointer-", delete=False) as file:
            file.write(document + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self.folder / _POINTER)
        _fsync(self.folder)
        # `prune` keeps what was used last
        os.utime(self.path(version))

    def install(self, version: ProductionVersion, download: Callable[[Path], object]) -> None:
        """Download a version, verify it and put it into the cache; an intact copy that is there stays.

        Raises:
            ConflictError: a file is not what was registered.
        """
        with _readable_errors(self.folder), self._partial() as partial:
            download(partial)
            verify_files(partial, version.manifest_sha256)
            for path in sorted(partial.rglob("*"), reverse=True):
                _fsync(path)
            _fsync(partial)
            with self._lock(fcntl.LOCK_EX):
                path = self.path(version)
                with suppress(TamperedError):
                    self.verified(version)
                    return
                _remove(path)
                partial.rename(path)
                _fsync(self.folder)

    def prune(self, *current: ProductionVersion | None) -> None:
        """Remove what killed downloads left, and all versions but `current` and the one used before it."""
        kept = {self.path(version) for version in current if version}
        with _readable_errors(self.folder), self._lock(fcntl.LOCK_EX):
            versions = [path for path in self.folder.iterdir() if path.is_dir() and path.name[0] != "."]
            others = sorted(set(versions) - kept, key=lambda path: path.stat().st_mtime, reverse=True)
            for path in others[max(_KEPT - len(kept), 0) :]:
                _remove(path)
            for path in self.folder.glob(f"{_PARTIAL}*"):
                if _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        with self._lock(fcntl.LOCK_EX):  # `prune` must not see it before it is locked
            path = Path(tempfile.mkdtemp(dir=self.folder, prefix=_PARTIAL))
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        path = self.folder / ".lock"
        # a cache that can only be read, can be read
        flags = os.O_CREAT | (os.O_RDONLY if kind == fcntl.LOCK_SH else os.O_RDWR)
        with _readable_errors(path):
            self._prepare()
            descriptor = os.open(path, flags, mode=0o600)
        try:
            with _readable_errors(path):
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        """Make the folder, which may have been removed, and make sure that no other user can write it."""
        make_private(self.folder)
        require_private(*self._levels)


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says what can be done."""
    try:
        yield
    except OSError as error:
        # HTTP libraries derive theirs from it, too
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        where = Path(error.filename) if isinstance(error.filename, str) else path
        raise UnusableCacheError(where, f"cannot be used ({error.strerror})") from error


def _part(name: str) -> str:
    """A name as one folder's name: nothing in it leads elsewhere."""
    part = quote(name, safe=" ")
    if not part or part.startswith("."):
        raise BadInputError(f"{name!r} cannot be a name in the model cache.")
    return part


def _is_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(path: Path) -> None:
    """Remove a version as a whole: under its name it is complete or absent at any time."""
    if os.path.lexists(path):
        doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=_PARTIAL))
        path.rename(doomed / path.name)
        shutil.rmtree(doomed, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
