"""Registering a version: copy its files to their own folder with a manifest, and only then let it exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.artifacts import folders, manifest
from mlflow_plugins.artifacts.folders import File, Folder
from mlflow_plugins.errors import conflict, missing
from mlflow_plugins.lifecycle.semver import Interface
from mlflow_plugins.registration import cards
from mlflow_plugins.registration.model_info import (
    RunFacts,
    describe,
    finite,
    interface,
    read_mlmodel,
    run_facts,
)

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.destination import Sources
    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.registration.sources import Origin

#: Tag of the run (set by MLflow's client) that names the model's author.
RUN_USER_TAG: Final = "mlflow.user"
#: Version tag that says which version of another model this one was copied from.
ORIGIN_TAG: Final = "copied_from"


@dataclass(frozen=True)
class NewVersion:
    """A model about to be registered: its files and what is known about it."""

    source: str
    folder: Folder | None
    #: without what an earlier registration has added
    files: Mapping[str, File]
    added: frozenset[str]
    #: what the files must be, where they are a registered version's
    promised: manifest.Fingerprints
    mlmodel: dict[str, Any]
    facts: RunFacts
    interface: Interface

    @property
    def author(self) -> str | None:
        """Whom the run names as its user."""
        return self.facts.tags.get(RUN_USER_TAG)


def inspect(destination: Sources | None, origin: Origin, tenant: str, tags: dict[str, str]) -> NewVersion:
    """Look at the files of `origin` before anything is reserved or copied.

    Args:
        destination: of this server.
        origin: where the files are, and what they are.
        tenant: to whom they must belong.
        tags: of the new version.

    Raises:
        MlflowException: 400 or 404, these files cannot be registered; 409, they are not what was registered.
    """
    location = origin.location
    if destination is None:
        return NewVersion(
            location, None, {}, frozenset(), {}, {}, RunFacts(), interface({}, tags, RunFacts())
        )
    folder = destination.folder(location, tenant)
    present = folder.files()
    if not present:
        raise missing(f"There are no files at {location}. Log the model first, then register it.")
    listed = _listed(folder, present, origin.manifest_sha256) if origin.manifest_sha256 else {}
    added = manifest.own_files(listed) if listed else manifest.added(folder, present)
    promised = {path: entry for path, entry in listed.items() if path not in added}
    files = {path: file for path, file in sorted(present.items()) if path not in added}
    manifest.places(files)
    mlmodel = read_mlmodel(folder, files)
    facts = run_facts(origin.run_id, origin.model_id)
    # what is given for this version counts, also where its run says otherwise
    facts = replace(facts, metrics={**facts.metrics, **cards.given_metrics(tags)})
    return NewVersion(
        location, folder, files, added, promised, mlmodel, facts, interface(mlmodel, tags, facts)
    )


def publish(
    candidate: NewVersion, target: Folder, identity: dict[str, Any], extra: dict[str, Any]
) -> ManifestDigest:
    """Fill the version's folder: the model's files, what is known about it, and the manifest last.

    Raises:
        MlflowException: 409, the source was changed meanwhile; 503, the store failed. What is complete by
            then stays, and the next attempt takes it over where the store lets it.
    """
    if candidate.folder is None:
        raise ValueError("There is no destination to publish to.")
    verifiers = target.copy_from(candidate.folder, candidate.files)
    _check_unchanged(candidate.folder, candidate)
    registered_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    metadata = {
        **identity,
        **extra,
        **describe(candidate.mlmodel, candidate.facts),
        "given": cards.document(extra["tags"], cards.METADATA_TAG) or None,
        "feature_service": candidate.interface.feature_service,
        "author": candidate.author,
        "source": candidate.source,
        "registered_at": registered_at,
    }
    own = manifest.places(candidate.files)
    documents = {
        own[manifest.METADATA]: manifest.canonical_json(metadata),
        own[manifest.METRICS]: manifest.canonical_json(finite(candidate.facts.metrics)),
    }
    folders.map_parallel(lambda path: target.write(path, documents[path]), documents)
    facts = {**identity, "registered_at": registered_at}
    return manifest.write(target, facts, verifiers, candidate.promised)


def _listed(folder: Folder, files: Mapping[str, File], manifest_sha256: str) -> manifest.Fingerprints:
    """What a registered version's files must be; their copies are compared with it."""
    if manifest.MANIFEST not in files:
        raise manifest.tampered(folder, manifest.MANIFEST, "is missing")
    listed = manifest.read(folder, manifest_sha256)
    manifest.check_listing(folder, listed, {path: file.size for path, file in files.items()})
    return listed


def _check_unchanged(folder: Folder, candidate: NewVersion) -> None:
    """All copies must be of one state of the source, also where every single one is right."""
    present = {path: file for path, file in folder.files().items() if path not in candidate.added}
    for path in sorted(present.keys() | candidate.files.keys()):
        if present.get(path) != candidate.files.get(path):
            raise conflict(
                f"Artifact {path} of {folder} was changed while the model was being registered. "
                "Register again when nobody writes to it."
            )
