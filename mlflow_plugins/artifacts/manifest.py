"""The manifest of a version: size and SHA-256 of every file, written last, checked at promotion."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.errors import conflict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlflow.exceptions import MlflowException

    from mlflow_plugins.artifacts.folders import Folder

METADATA: Final = "metadata.json"
METRICS: Final = "metrics.json"
MANIFEST: Final = "manifest.json"
RESERVED: Final = frozenset({METADATA, METRICS, MANIFEST})
TAG: Final = "manifest_sha256"
_PARALLEL: Final = 8
_FORMAT: Final = 1


@dataclass(frozen=True)
class Sealed:
    """What the registry remembers about a version's folder."""

    manifest_sha256: str
    file_count: int
    size_bytes: int


def seal(folder: Folder, facts: dict[str, Any]) -> Sealed:
    """Hash every file of `folder` and write its manifest, with `facts` in front."""
    files = _fingerprints(folder, folder.files())
    document = canonical_json({"format": _FORMAT, **facts, "files": files})
    folder.write(MANIFEST, document)
    return Sealed(
        manifest_sha256=hashlib.sha256(document).hexdigest(),
        file_count=len(files) + 1,
        size_bytes=sum(entry["size"] for entry in files.values()) + len(document),
    )


def verify(folder: Folder, manifest_sha256: str) -> dict[str, Any]:
    """Check every file of `folder` against its manifest, and that against its own SHA-256.

    Returns:
        What was checked, as evidence.

    Raises:
        MlflowException: 409 naming the first file that is missing, changed or not listed.
    """
    sizes = folder.files()
    if MANIFEST not in sizes:
        raise _tampered(folder, MANIFEST, "is missing")
    document = b"".join(folder.read(MANIFEST))
    if hashlib.sha256(document).hexdigest() != manifest_sha256:
        raise _tampered(folder, MANIFEST, "was changed")
    listed = json.loads(document)["files"]
    del sizes[MANIFEST]
    for path in sorted(listed.keys() | sizes.keys()):
        if path not in sizes:
            raise _tampered(folder, path, "is missing")
        if path not in listed:
            raise _tampered(folder, path, "was added after registration")
        if sizes[path] != listed[path]["size"]:
            raise _tampered(folder, path, f"has {sizes[path]} bytes instead of {listed[path]['size']}")
    for path, entry in _fingerprints(folder, sizes).items():
        if entry != listed[path]:
            raise _tampered(folder, path, "was changed")
    sealed = Sealed(manifest_sha256, len(listed) + 1, sum(sizes.values()) + len(document))
    return {"manifest": "verified", **asdict(sealed)}


def canonical_json(value: Any) -> bytes:
    """Readable JSON that is the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _fingerprints(folder: Folder, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    def fingerprint(path: str) -> dict[str, Any]:
        digest = hashlib.sha256()
        size = 0
        for chunk in folder.read(path):
            digest.update(chunk)
            size += len(chunk)
        return {"size": size, "sha256": digest.hexdigest()}

    ordered = sorted(paths)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(zip(ordered, pool.map(fingerprint, ordered), strict=True))


def _tampered(folder: Folder, path: str, what: str) -> MlflowException:
    return conflict(
        f"Artifact {path} of {folder} {what} since registration. "
        "Register the model anew from its run; this version cannot be used."
    )
