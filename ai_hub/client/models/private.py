"""Folders and files that no other user can have written: what is in the model cache is run."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

#: Where the cache is, if not in the user's own.
VARIABLE = "AI_HUB_CACHE_DIR"


class UnusableCacheError(BadInputError):
    """The model cache cannot be used as it is."""

    def __init__(self, path: Path, what: str) -> None:
        #: what is wrong with it
        self.path = path
        super().__init__(
            f"The model cache is not used: {path} {what}.",
            hint=f"Give cache_dir=…, or set {VARIABLE}, to a folder that is yours alone "
            "(`chmod go-w`), or is still to be made.",
        )


def make(folder: Path) -> None:
    """Make a folder, with all above it that is missing, for this user alone."""
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)


def require(*folders: Path) -> None:
    """Make sure that no other user can have written what is in these folders.

    Raises:
        UnusableCacheError: names the first that somebody else can have written.
    """
    for folder in folders:
        if says := flaw(folder):
            raise UnusableCacheError(folder, says)


def flaw(path: Path) -> str | None:
    """Why somebody else can have written it; None: nobody can."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return None
