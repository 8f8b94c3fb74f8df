"""Registering a version: copy its files to their own folder, seal them, and only then let it exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.artifacts import manifest, parallel
from mlflow_plugins.artifacts.folders import File, Folder
from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle.semver import Interface
from mlflow_plugins.registration import cards
from mlflow_plugins.registration.model_info import (
    RunFacts,
    describe,
    interface,
    read_mlmodel,
    run_facts,
)

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.destination import Destination
    from mlflow_plugins.artifacts.manifest import Sealed

#: Tag of the run (set by MLflow's client) that names the model's author.
RUN_USER_TAG: Final = "mlflow.user"
#: Version tag that says which version of another model this one was copied from.
ORIGIN_TAG: Final = "copied_from"


@dataclass(frozen=True)
class Candidate:
    """A model about to be registered: its files and what is known about it."""

    source: str
    folder: Folder | None
    files: Mapping[str, File]
    #: what the files must be, where they are a registered version's
    promised: manifest.Fingerprints
    mlmodel: dict[str, Any]
    facts: RunFacts
    interface: Interface

    @property
    def author(self) -> str | None:
        """Whom the run names as its user."""
        return self.facts.tags.get(RUN_USER_TAG)


def inspect(
    destination: Destination | None,
    location: str,
    tenant: str,
    *,
    run_id: str | None,
    model_id: str | None,
    manifest_sha256: str | None,
    tags: dict[str, str],
) -> Candidate:
    """Look at the files at `location` before anything is reserved or copied.

    Args:
        destination: of this server.
        location: where the files are.
        tenant: to whom they must belong.
        run_id: the run they come from.
        model_id: the logged model they are.
        manifest_sha256: the seal of the registered version they are.
        tags: of the new version.

    Raises:
        MlflowException: 400 or 404, these files cannot be registered; 409, they are not what was registered.
    """
    if destination is None:
        return Candidate(location, None, {}, {}, {}, RunFacts(), interface({}, tags, RunFacts()))
    folder = destination.folder(location, tenant)
    files = _model_files(folder)
    if not files:
        raise missing(f"There are no files at {location}. Log the model first, then register it.")
    promised = _promised(folder, files, manifest_sha256) if manifest_sha256 else {}
    if taken := sorted(manifest.RESERVED & files.keys()):
        raise bad_input(f"The model has its own {', '.join(taken)}; the registry needs this name. Rename it.")
    mlmodel = read_mlmodel(folder, files)
    facts = run_facts(run_id, model_id)
    # what is given for this version counts, also where its run says otherwise
    facts = replace(facts, metrics={**facts.metrics, **cards.given_metrics(tags)})
    return Candidate(location, folder, files, promised, mlmodel, facts, interface(mlmodel, tags, facts))


def publish(candidate: Candidate, target: Folder, identity: dict[str, Any], extra: dict[str, Any]) -> Sealed:
    """Fill the version's folder: the model's files, what is known about it, and the manifest last.

    Raises:
        MlflowException: 409, the source was changed meanwhile; 503, the store failed. What is complete by
            then stays, and the next attempt takes it over where the store lets it.
    """
    if candidate.folder is None:
        raise ValueError("There is no destination to publish to.")
    witnesses = target.copy_from(candidate.folder, candidate.files)
    _check_unchanged(candidate.folder, candidate.files)
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
    documents = {
        manifest.METADATA: manifest.canonical_json(metadata),
        manifest.METRICS: manifest.canonical_json(_finite(candidate.facts.metrics)),
    }
    parallel.each(lambda path: target.write(path, documents[path]), documents)
    facts = {**identity, "registered_at": registered_at}
    return manifest.seal(target, facts, witnesses, candidate.promised)


def _model_files(folder: Folder) -> dict[str, File]:
    """The files of the model; what an earlier registration added is not part of it."""
    files = folder.files()
    added = manifest.RESERVED if manifest.MANIFEST in files else frozenset[str]()
    return {path: file for path, file in sorted(files.items()) if path not in added}


def _promised(folder: Folder, files: Mapping[str, File], manifest_sha256: str) -> manifest.Fingerprints:
    """What a registered version's files must be; the copies are compared with it when they are sealed."""
    if manifest.MANIFEST not in folder.files():
        raise manifest.tampered(folder, manifest.MANIFEST, "is missing")
    listed = manifest.read(folder, manifest_sha256)
    promised = {path: entry for path, entry in listed.items() if path not in manifest.RESERVED}
    manifest.check_listing(folder, promised, {path: file.size for path, file in files.items()})
    return promised


def _check_unchanged(folder: Folder, files: Mapping[str, File]) -> None:
    """All copies must be of one state of the source, also where every single one is right."""
    present = _model_files(folder)
    for path in sorted(present.keys() | files.keys()):
        if present.get(path) != files.get(path):
            raise conflict(
                f"Artifact {path} of {folder} was changed while the model was being registered. "
                "Register again when nobody writes to it."
            )


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN or infinity
    return {name: value if isfinite(value) else None for name, value in metrics.items()}
