"""A model's versions on disk, for all processes of a machine.

::

    {cache}/{registry}/{tenant}/{model}/
        {version}-{seal}/…   complete and verified, or absent
        production.json      the version last seen in Production; its mtime: when it was
        .partial-…           a download, locked by its process while that lives
        .lock                shared while a version is read, exclusive while folders change
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ai_hub.client.models import private, seal
from ai_hub.client.models.production import Production
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("ai_hub.client")
_POINTER = "production.json"
_PARTIAL = ".partial-"
_KEPT = 2
#: of a hash, so that folders differ by it
_PREFIX = 12


def default_folder() -> Path:
    """`models` in AI_HUB_CACHE_DIR, or in the user's cache folder."""
    if configured := os.environ.get(private.VARIABLE):
        return Path(configured).expanduser() / "models"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "ai-hub" / "models"


class Cache:
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

    def place(self, version: Production) -> Path:
        """Where a version is, if it is there."""
        return self.folder / _part(f"{version.label}-{version.manifest_sha256[:_PREFIX]}")

    def verified(self, version: Production) -> Path:
        """Where a version is, after a look at each of its files.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        place = self.place(version)
        with _told(place):
            if os.path.lexists(place) and private.flaw(place):
                raise seal.TamperedError(place, "was opened to other users")
            seal.verify(place, version.manifest_sha256)
        return place

    def last(self) -> Production | None:
        """The version last seen in Production; None: none was, or nobody can tell any more."""
        pointer = self.folder / _POINTER
        with _told(pointer), suppress(FileNotFoundError, ValueError, TypeError):
            self._prepare()
            if says := private.flaw(pointer):
                _log.warning("%s %s, so it is not believed", pointer, says)
                return None
            return Production(**json.loads(pointer.read_text()))
        return None

    def checked_at(self) -> datetime | None:
        """When the version that `last` tells was last seen in Production."""
        pointer = self.folder / _POINTER
        with _told(pointer), suppress(FileNotFoundError):
            return datetime.fromtimestamp(pointer.stat().st_mtime, UTC)
        return None

    def remember(self, version: Production) -> None:
        """Note that `version`, which was verified, is in Production now; nothing, if it is no longer here."""
        with _told(self.folder):
            if version == self.last():
                os.utime(self.folder / _POINTER)
            elif self.place(version).exists():
                self._point_to(version)

    def _point_to(self, version: Production) -> None:
        document = json.dumps(asdict(version), indent=2, sort_keys=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".pointer-", delete=False) as file:
            file.write(document + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self.folder / _POINTER)
        _fsync(self.folder)
        # `prune` keeps what was used last
        os.utime(self.place(version))

    def install(self, version: Production, download: Callable[[Path], object]) -> None:
        """Fetch a version, verify it and put it in its place; a good copy that is there stays.

        Raises:
            ConflictError: a file is not what was registered.
        """
        with _told(self.folder), self._partial() as partial:
            download(partial)
            seal.verify(partial, version.manifest_sha256)
            for path in sorted(partial.rglob("*"), reverse=True):
                _fsync(path)
            _fsync(partial)
            with self._lock(fcntl.LOCK_EX):
                place = self.place(version)
                with suppress(seal.TamperedError):
                    self.verified(version)
                    return
                _remove(place)
                partial.rename(place)
                _fsync(self.folder)

    def prune(self, *current: Production | None) -> None:
        """Remove what killed downloads left, and all versions but `current` and the one used before it."""
        kept = {self.place(version) for version in current if version}
        with _told(self.folder), self._lock(fcntl.LOCK_EX):
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
        with _told(path):
            self._prepare()
            descriptor = os.open(path, flags, mode=0o600)
        try:
            with _told(path):
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        """Make the folder, which may have been removed, and make sure that no other user can write it."""
        private.make(self.folder)
        private.require(*self._levels)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says what can be done."""
    try:
        yield
    except OSError as error:
        # HTTP libraries derive theirs from it, too
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        where = Path(error.filename) if isinstance(error.filename, str) else path
        raise private.UnusableCacheError(where, f"cannot be used ({error.strerror})") from error


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


def _remove(place: Path) -> None:
    """Remove a version as a whole: under its name it is complete or absent at any time."""
    if os.path.lexists(place):
        doomed = Path(tempfile.mkdtemp(dir=place.parent, prefix=_PARTIAL))
        place.rename(doomed / place.name)
        shutil.rmtree(doomed, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
