"""Registering a version: find its files, copy them to their own folder with a manifest, then let it exist.

Its source is a run's artifacts, a logged model, or a version of another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri  # the parser MLflow's own stores use

from mlflow_plugins.artifacts import folders, manifest
from mlflow_plugins.artifacts.destination import (
    VERSION_DEPTH,
    check_model_name,
    parse_proxy_path,
    proxied_path,
)
from mlflow_plugins.artifacts.folders import File, Folder
from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle import semver
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion
from mlflow_plugins.registration import model_metadata
from mlflow_plugins.registration.model_metadata import (
    RunFacts,
    describe,
    finite,
    interface,
    read_mlmodel,
    run_facts,
)

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore

    from mlflow_plugins.artifacts.destination import Sources
    from mlflow_plugins.artifacts.manifest import ManifestDigest


#: Of a version: at most one of a model ever has the same, so that a registration whose answer was lost is
#: repeated without a second version.
KEY_TAG: Final = "registration_key"


@dataclass(frozen=True)
class Origin:
    """Where the files are, and which run, logged model or registered version they belong to."""

    location: str
    run_id: str | None
    model_id: str | None = None
    copied_from: str | None = None
    inherited_version: str | None = None
    #: SHA-256 of the registered version's manifest
    manifest_sha256: str | None = None


def resolve_source(
    store: AbstractStore, tenant: str, source: str, run_id: str | None, model_id: str | None
) -> Origin:
    """Find the files `source` stands for.

    Raises:
        MlflowException: 404 when the source does not exist, 400 when it is not one of the above.
    """
    source = _registered_version(store, tenant, source) or source
    scheme = urlsplit(source).scheme
    if scheme == "runs":
        return Origin(RunsArtifactRepository.get_underlying_uri(source), run_id, model_id)
    if scheme == "models":
        parsed = _parse_model_uri(source)
        if parsed.model_id is not None:
            logged = MlflowClient().get_logged_model(parsed.model_id)
            return Origin(logged.artifact_location, run_id or logged.source_run_id, parsed.model_id)
        if parsed.name is None or parsed.version is None:
            raise bad_input(f"{source!r} names no version. Use models:/NAME/VERSION.")
        copied = store.get_model_version(parsed.name, parsed.version)
        location = store.get_model_version_download_uri(parsed.name, parsed.version)
        number = copied.tags.get(semver.TAG)
        origin = f"models:/{copied.name}/{copied.version}"
        digest = copied.tags.get(manifest.TAG)
        return Origin(location, run_id or copied.run_id, model_id, origin, number, digest)
    if model_id and not run_id:
        run_id = MlflowClient().get_logged_model(model_id).source_run_id
    return Origin(source, run_id, model_id)


def logged_by_run(source: str) -> Origin | None:
    """The logged model that `runs:/RUN/NAME` stands for where the run has no files of its own by that name.

    Since MLflow 3 a run's models are apart from its files. Of several, the one of the latest step.
    """
    if urlsplit(source).scheme != "runs":
        return None
    run_id, name = RunsArtifactRepository.parse_runs_uri(source)
    client = MlflowClient()
    outputs = client.get_run(run_id).outputs
    latest = sorted(outputs.model_outputs if outputs else [], key=lambda output: output.step, reverse=True)
    for output in latest:
        logged = client.get_logged_model(output.model_id)
        if logged.name == name:
            return Origin(logged.artifact_location, run_id, logged.model_id)
    return None


def _registered_version(store: AbstractStore, tenant: str, source: str) -> str | None:
    """The address by name and number of a registered version that is addressed by its folder."""
    path = proxied_path(source)
    located = parse_proxy_path(path, workspaces=MLFLOW_ENABLE_WORKSPACES.get()) if path else None
    if located is None or not located.registered or located.tenant != tenant:
        return None
    if len(located.parts) == VERSION_DEPTH:
        model, number = located.parts
        check_model_name(model)
        named = f"name = '{model}' AND tags.{semver.TAG} = '{parse_number(number)}'"
        for version in store.search_model_versions(named, max_results=1):
            return f"models:/{model}/{version.version}"
    raise missing(f"{source!r} is no registered version. Use models:/NAME/VERSION.")


def parse_number(given: str | None) -> SemanticVersion | None:
    """The semantic version the caller asks for by tag.

    Raises:
        MlflowException: 400, it is not one.
    """
    if given is None:
        return None
    try:
        return SemanticVersion.parse(given)
    except ValueError as error:
        raise bad_input(
            f"Tag {semver.TAG}={given!r} is not a version like v1.2.0. "
            "Correct it, or leave the tag out to get the next number."
        ) from error


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
    # MLflow's client writes it into whatever folder it loads a model from, perhaps just now
    added = (
        manifest.own_files(listed)
        if listed
        else manifest.added(folder, present) | {REGISTERED_MODEL_META_FILE_NAME}
    )
    promised = {path: entry for path, entry in listed.items() if path not in added}
    files = {path: file for path, file in sorted(present.items()) if path not in added}
    manifest.places(files)
    mlmodel = read_mlmodel(folder, files)
    facts = run_facts(origin.run_id, origin.model_id)
    # what is given for this version counts, also where its run says otherwise
    facts = replace(facts, metrics={**facts.metrics, **model_metadata.given_metrics(tags)})
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
        "given": model_metadata.tag_document(extra["tags"], model_metadata.METADATA_TAG) or None,
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
