"""Whether cached files are what was registered, and no other user can have written them: they are code.

`mlflow_plugins.artifacts.manifest` writes the manifest, and checks it on the server. It imports MLflow, and a
start from the cache must not wait for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError, ConflictError

if TYPE_CHECKING:
    from pathlib import Path


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
