"""Checks a folder against the manifest of its version; `mlflow_plugins.artifacts.manifest` writes it.

That module checks on the server's side and imports MLflow, for which a start from the cache must not wait.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
#: Where it is instead when the model has a file of that name itself.
ASIDE = ".ai-hub"


class TamperedError(ConflictError):
    """A cached file is not what was registered."""

    def __init__(self, path: Path, what: str) -> None:
        #: the file
        self.path = path
        super().__init__(
            f"{path} {what} since it was verified, so it is not used.",
            hint="It is fetched anew when the registry answers.",
        )


def verify(folder: Path, manifest_sha256: str) -> None:
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
