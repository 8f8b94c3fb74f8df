"""Models whose files come with the request: kept under a run of the tenant's experiment `uploads`."""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from ai_hub.errors import AiHubError, BadInputError
from ai_hub.registry.server import readable_errors, tracking_uri
from mlflow_plugins.artifacts.manifest import ASIDE
from mlflow_plugins.registration.model_metadata import MLMODEL, parse_mlmodel
from mlflow_plugins.registration.publishing import RUN_USER_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT: Final = "uploads"
FOLDER: Final = "model"
#: Milliseconds after which an upload that did not end is one of a service that was killed.
ABANDONED_MS: Final = 3_600_000

_LONGEST_PATH: Final = 256
#: Says where the trained model once was, which nobody opens.
_ORIGINS: Final = frozenset({"uri"})
_log: Final = logging.getLogger(__name__)


def check_files(files: Mapping[str, bytes]) -> None:
    """Refuse files that could not be a model's.

    Raises:
        BadInputError: a path leaves the folder, is written twice or is the registry's; `MLmodel` is hostile.
    """
    folded: dict[str, str] = {}
    for path in files:
        _check_path(path)
        if (other := folded.setdefault(path.casefold(), path)) != path:
            raise BadInputError(
                f"Files {other} and {path} differ in case only.", hint="Many file systems hold one of them."
            )
    for path in files:
        for parent in PurePosixPath(path).parents:
            if str(parent).casefold() in folded:
                raise BadInputError(f"{parent} is a file and also the folder of {path}.")
    if MLMODEL in files:
        check_mlmodel(files[MLMODEL])


@contextmanager
def uploaded(client: MlflowClient, files: Mapping[str, bytes], name: str, user: str) -> Iterator[Run]:
    """A new run with the files in its folder `model`; nothing is left of it when the block fails."""
    with tempfile.TemporaryDirectory(prefix="ai-hub-upload-") as scratch:
        for path, content in files.items():
            local = Path(scratch, *PurePosixPath(path).parts)
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        tags = {RUN_USER_TAG: user, "mlflow.source.name": "REST"}
        with uploaded_folder(client, Path(scratch), name, tags) as run:
            yield run


@contextmanager
def uploaded_folder(client: MlflowClient, folder: Path, name: str, tags: dict[str, str]) -> Iterator[Run]:
    """The same with the files of a local folder."""
    experiment = _ensure_experiment(client)
    _sweep(client, experiment)
    run = client.create_run(experiment, run_name=name, tags=tags)
    try:
        client.log_artifacts(run.info.run_id, str(folder), FOLDER)
        yield run
    except BaseException:
        discard(client, run)
        raise
    with suppress(MlflowException):  # the version is there; the next one will not take the run for abandoned
        client.set_terminated(run.info.run_id)


def discard(client: MlflowClient, run: Run) -> None:
    """Delete an upload, as far as MLflow lets it."""
    try:
        with readable_errors():
            repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=tracking_uri())
            repository.delete_artifacts(FOLDER)
            client.delete_run(run.info.run_id)
    except AiHubError:
        _log.warning("Could not delete upload %s; a later one will", run.info.run_id, exc_info=True)


def _sweep(client: MlflowClient, experiment: str) -> None:
    """Delete uploads whose service was killed before their version was there."""
    before = int(time.time() * 1000) - ABANDONED_MS
    condition = f"attributes.status = 'RUNNING' AND attributes.start_time < {before}"
    for run in client.search_runs([experiment], condition, max_results=10):
        if not client.search_model_versions(f"run_id = '{run.info.run_id}'", max_results=1):
            discard(client, run)
        else:
            client.set_terminated(run.info.run_id)


def _ensure_experiment(client: MlflowClient) -> str:
    present = client.get_experiment_by_name(EXPERIMENT)
    if present is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException:
            # somebody else was faster
            present = client.get_experiment_by_name(EXPERIMENT)
            if present is None:
                raise
    if present.lifecycle_stage != "active":
        client.restore_experiment(present.experiment_id)
    return str(present.experiment_id)


#: Of Windows, and of encoded or home-relative paths, which MLflow refuses or somebody may expand.
_SPECIAL = frozenset("\\:%~")
#: Bytes of a name; file systems take 255.
_LONGEST_NAME = 200


def _check_path(path: str) -> None:
    parts = path.split("/")
    plain = path.isprintable() and not _SPECIAL & set(path) and len(path) <= _LONGEST_PATH
    if not plain or not all(map(_is_name, parts)):
        raise BadInputError(
            f"{path[:_LONGEST_PATH]!a} is no path of a file.",
            hint="Use relative paths with `/`, without `.` and `..`: MLmodel, data/model.lgb.",
        )
    if parts[0] == ASIDE:
        raise BadInputError(f"The folder {ASIDE} is the registry's.", hint=f"Rename {path}.")


def _is_name(part: str) -> bool:
    return part not in {"", ".", ".."} and part == part.strip() and len(part.encode()) <= _LONGEST_NAME


def check_mlmodel(content: bytes) -> None:
    """Refuse an `MLmodel` file that names others outside the model's folder.

    Raises:
        BadInputError: see above, or it is not what MLflow writes.
    """
    try:
        _check_paths_of(parse_mlmodel(content).get("flavors"))
    except ValueError as error:
        raise BadInputError(
            f"{MLMODEL} {error}", hint="Upload the folder that MLflow's `save_model` writes, as it is."
        ) from error


def _check_paths_of(value: Any) -> None:
    """Whoever loads the model opens the files its flavors name, so these must be the model's."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in _ORIGINS:
                _check_paths_of(part)
    elif isinstance(value, list):
        for part in value:
            _check_paths_of(part)
    elif isinstance(value, str):
        parts = value.replace("\\", "/").split("/")
        if (parts[0] in {"", "~"} and len(parts) > 1) or ".." in parts:
            raise ValueError(f"names {value[:100]!a}, which is outside the model's folder.")
