"""The manifest of a version: size and SHA-256 of every file; checked at promotion and at loading.

A load hashes every file it reads. A promotion takes one listing where the store has ETags: S3 gives an object
another one when it is written with other bytes, so a folder with the names, sizes and ETags of the moment in
which its files were hashed holds what it held then. Where they differ or are unknown, all files are hashed.
Damage on the store's disks, which no listing shows, is found by the next load, or by the gate's `rehash`.

It, `metadata.json` and `metrics.json` are added to the model's files, in the folder `.ai-hub` where the model
has one of the same name. Which file is the manifest tells its SHA-256, never its name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mlflow_plugins.artifacts import folders
from mlflow_plugins.errors import bad_input, conflict, unavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Mapping

    from mlflow.exceptions import MlflowException

    from mlflow_plugins.artifacts.folders import ChecksumVerifier, File, Folder


METADATA: Final = "metadata.json"
METRICS: Final = "metrics.json"
MANIFEST: Final = "manifest.json"
RESERVED: Final = frozenset({METADATA, METRICS, MANIFEST})
#: Folder of those of ours whose names the model has taken; no file of a model is in it.
ASIDE: Final = ".ai-hub"
TAG: Final = "manifest_sha256"
_FORMAT: Final = 1

#: `size` and `sha256` of each file by its path.
Fingerprints: TypeAlias = "dict[str, dict[str, Any]]"


@dataclass(frozen=True)
class ManifestDigest:
    """A version's folder as the registry's database has it: the SHA-256 of its manifest, and its size."""

    manifest_sha256: str
    file_count: int
    size_bytes: int
    #: of the listing when the files were hashed (see `listing_digest`)
    listing_sha256: str | None = None

    def evidence(self) -> dict[str, Any]:
        """What the audit trail keeps."""
        return {
            "manifest_sha256": self.manifest_sha256,
            "file_count": self.file_count,
            "size_bytes": self.size_bytes,
        }


def listing_digest(files: Mapping[str, File]) -> str | None:
    """SHA-256 of a listing's names, sizes and ETags; None where a file has no ETag, or an empty one."""
    if not all(file.etag for file in files.values()):
        return None
    return hashlib.sha256(canonical_json(files)).hexdigest()


def place(files: Container[str], name: str) -> str:
    """The path of our file `name` among the `files` of a version."""
    aside = f"{ASIDE}/{name}"
    return aside if aside in files else name


def places(model_files: Collection[str]) -> dict[str, str]:
    """Where our files go beside these of a model, by name.

    Raises:
        MlflowException: 400, the model has files in the one folder that is ours.
    """
    if taken := sorted(path for path in model_files if path == ASIDE or path.startswith(f"{ASIDE}/")):
        raise bad_input(f"The model has {taken[0]}, but the folder {ASIDE} is the registry's. Rename it.")
    return {name: f"{ASIDE}/{name}" if name in model_files else name for name in sorted(RESERVED)}


def added(folder: Folder, files: Mapping[str, File]) -> frozenset[str]:
    """Those of `files` that an earlier registration has added, told by what is in them.

    A manifest of ours lists the other two as they are; any other file of that name is the model's.
    """
    for path in (f"{ASIDE}/{MANIFEST}", MANIFEST):
        if path in files:
            listed = _listed(b"".join(folder.read(path)))
            others = {place(listed, METADATA), place(listed, METRICS)}
            if others <= listed.keys() & files.keys():
                found = _fingerprints(folder, {name: files[name] for name in others}, {})
                if all(found[name] == listed[name] for name in others):
                    return frozenset({path, *others})
    return frozenset()


def own_files(listed: Fingerprints) -> frozenset[str]:
    """The paths of ours among what a verified manifest lists, itself included."""
    return frozenset(place(listed, name) for name in RESERVED)


def write(
    folder: Folder, facts: dict[str, Any], verifiers: Mapping[str, ChecksumVerifier], promised: Fingerprints
) -> ManifestDigest:
    """Hash every file of `folder` and write its manifest.

    Args:
        folder: holds copies, and `metadata.json` and `metrics.json` in their `places`.
        facts: what the manifest says beside the files.
        verifiers: what tells whether the copies are their sources.
        promised: what some of the files must be.

    Raises:
        MlflowException: 409, a file is not as promised; 503, a copy failed, which a repetition mends.
    """
    listing = folder.files()
    own = places(verifiers.keys())
    if unexpected := sorted(listing.keys() ^ (verifiers.keys() | {own[METADATA], own[METRICS]})):
        raise unavailable(f"{folder}{unexpected[0]} appeared or vanished meanwhile. Register again.")
    files = _fingerprints(folder, listing, verifiers)
    for path in promised.keys() & files.keys():
        if files[path] != promised[path]:
            raise tampered(folder, path, "was changed")
    document = canonical_json({"format": _FORMAT, **facts, "files": files})
    written = folder.write(own[MANIFEST], document)
    return ManifestDigest(
        manifest_sha256=hashlib.sha256(document).hexdigest(),
        file_count=len(files) + 1,
        size_bytes=sum(entry["size"] for entry in files.values()) + len(document),
        listing_sha256=listing_digest({**listing, own[MANIFEST]: written}),
    )


def read(folder: Folder, manifest_sha256: str) -> Fingerprints:
    """What `folder` must hold, the manifest itself included.

    Raises:
        MlflowException: 409, the manifest is not the one with this SHA-256; 404, there is none.
    """
    path, document = MANIFEST, b"".join(folder.read(MANIFEST))
    if hashlib.sha256(document).hexdigest() != manifest_sha256:
        # the model's own, or a changed one
        path = place(folder.files(), MANIFEST)
        document = b"".join(folder.read(path))
    return parse(folder, path, document, manifest_sha256)


def parse(folder: Folder, path: str, document: bytes, manifest_sha256: str) -> Fingerprints:
    """What `folder` must hold by its manifest `document`, which is at `path`; see `read`."""
    if hashlib.sha256(document).hexdigest() != manifest_sha256:
        raise tampered(folder, path, "was changed")
    return listed_by(path, document, manifest_sha256)


def listed_by(path: str, document: bytes, manifest_sha256: str) -> Fingerprints:
    """What the manifest `document`, which is at `path` and has this SHA-256, lists, itself included."""
    own = {"size": len(document), "sha256": manifest_sha256}
    return {**json.loads(document)["files"], path: own}


def verify(folder: Folder, digest: ManifestDigest, *, rehash: bool = False) -> dict[str, Any]:
    """Make sure that `folder` holds what was registered: by its listing, else by hashing every file.

    Args:
        folder: of the version.
        digest: what the database says about it.
        rehash: hash every file in any case.

    Returns:
        What was checked, as evidence; `checked` is `etag` or `sha256`.

    Raises:
        MlflowException: 409 naming the first file that is missing, changed or not listed.
    """
    files = folder.files()
    unchanged = digest.listing_sha256 is not None and digest.listing_sha256 == listing_digest(files)
    if unchanged and not rehash:
        return {"manifest": "verified", "checked": "etag", **digest.evidence()}
    if MANIFEST not in files:
        raise tampered(folder, MANIFEST, "is missing")
    listed = read(folder, digest.manifest_sha256)
    check_listing(folder, listed, {path: file.size for path, file in files.items()})
    del files[place(listed, MANIFEST)]
    for path, entry in _fingerprints(folder, files, {}).items():
        if entry != listed[path]:
            raise tampered(folder, path, "was changed")
    return {"manifest": "verified", "checked": "sha256", **digest.evidence()}


def check_listing(folder: Folder, listed: Fingerprints, sizes: Mapping[str, int]) -> None:
    """Compare the files that are there with those of the manifest, by name and size.

    Raises:
        MlflowException: 409 naming the first file that is missing, not listed or of another size.
    """
    if found := difference(listed, sizes):
        raise tampered(folder, *found)


def difference(listed: Fingerprints, sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """The first file that is missing, not listed or of another size, and what is wrong with it."""
    for path in sorted(listed.keys() | sizes.keys()):
        if path not in sizes:
            return path, "is missing"
        if path not in listed:
            return path, "was added"
        if sizes[path] != listed[path]["size"]:
            return path, f"has {sizes[path]} bytes instead of {listed[path]['size']}: it was changed"
    return None


def canonical_json(value: Any) -> bytes:
    """Readable JSON that is the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def tampered(folder: Folder, path: str, what: str) -> MlflowException:
    """The refusal of a version one of whose files `what` (HTTP 409)."""
    return conflict(tampered_text(folder, path, what))


def tampered_text(folder: object, path: str, what: str) -> str:
    """Why a version is refused one of whose files `what`."""
    return (
        f"Artifact {path} of {folder} {what} since registration. "
        "Register the model anew from its run; this version cannot be used."
    )


def _listed(document: bytes) -> Fingerprints:
    """What a manifest of ours lists; nothing where the document is none."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    files = found.get("files") if isinstance(found, dict) and found.get("format") == _FORMAT else None
    return files if isinstance(files, dict) else {}


def _fingerprints(
    folder: Folder, files: Mapping[str, File], verifiers: Mapping[str, ChecksumVerifier]
) -> Fingerprints:
    """Hash the listed `files`, each the one that was listed."""

    def fingerprint(path: str) -> dict[str, Any]:
        digest = hashlib.sha256()
        verifier = verifiers.get(path)
        size = 0
        for chunk in folder.read(path, files[path].etag):
            digest.update(chunk)
            size += len(chunk)
            if verifier:
                verifier.update(chunk)
        if verifier and not verifier.agrees(digest.hexdigest()):
            folder.delete_file(path)  # so that the next attempt copies it again
            raise unavailable(f"The copy {folder}{path} is not what was copied. Register again.")
        return {"size": size, "sha256": digest.hexdigest()}

    ordered = sorted(files)
    return dict(zip(ordered, folders.map_parallel(fingerprint, ordered), strict=True))
