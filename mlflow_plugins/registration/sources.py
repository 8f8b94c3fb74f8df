"""What a version is registered from: a run's artifacts, a logged model, or a version of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.artifact.utils.models import _parse_model_uri  # the parser MLflow's own stores use

from mlflow_plugins.errors import bad_input
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


def resolve(store: AbstractStore, source: str, run_id: str | None, model_id: str | None) -> Origin:
    """Find the files `source` stands for.

    Raises:
        MlflowException: 404 when the source does not exist, 400 when it is not one of the above.
    """
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
        return Origin(location, run_id or copied.run_id, model_id, origin, number)
    if model_id and not run_id:
        run_id = MlflowClient().get_logged_model(model_id).source_run_id
    return Origin(source, run_id, model_id)


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
