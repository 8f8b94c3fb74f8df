"""What a version is registered from: a run's artifacts, a logged model, or a version of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri  # the parser MLflow's own stores use

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.layout import (
    VERSION_DEPTH,
    check_model_name,
    parse_proxy_path,
    proxied_path,
)
from mlflow_plugins.errors import bad_input, missing
from mlflow_plugins.lifecycle import semver
from mlflow_plugins.lifecycle.semver import SemanticVersion

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore


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


def resolve(
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
        named = f"name = '{model}' AND tags.{semver.TAG} = '{wanted_version(number)}'"
        for version in store.search_model_versions(named, max_results=1):
            return f"models:/{model}/{version.version}"
    raise missing(f"{source!r} is no registered version. Use models:/NAME/VERSION.")


def wanted_version(given: str | None) -> SemanticVersion | None:
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
