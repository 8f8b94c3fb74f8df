"""Registering a version from the client's side: what it is made of, the files it brings, what its tags say.

Files that come with a request are kept under a run of the tenant's experiment `uploads`.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from ai_hub.errors import AiHubError, BadInputError, ConflictError, NotFoundError
from ai_hub.registry.server import call, connect, readable_errors, tracking_uri
from ai_hub.registry.tenants import tenant_scope
from ai_hub.registry.versions import ModelVersion, get_version
from mlflow_plugins.artifacts.manifest import ASIDE
from mlflow_plugins.lifecycle import semver
from mlflow_plugins.registration.model_metadata import (
    FEATURE_SERVICE,
    LONGEST_TAG,
    METADATA_TAG,
    METRICS_TAG,
    MLMODEL,
    given_metrics,
    parse_mlmodel,
)
from mlflow_plugins.registration.publishing import RUN_USER_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Run


_CREATE: Final = "/api/2.0/mlflow/model-versions/create"
#: Seconds the registry may take to copy a model's files and hash them.
_COPY_S: Final = 300
_SERVICE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class FromRun:
    """Files of a run, or a model that was logged in it under this name."""

    run_id: str
    path: str


@dataclass(frozen=True)
class FromLoggedModel:
    """A logged model of MLflow 3."""

    model_id: str


@dataclass(frozen=True)
class FromFiles:
    """Contents by path."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class RegistrationRequest:
    """What to register; `version` None stands for the next one."""

    tenant: str
    model: str
    version: str | None
    metadata: dict[str, Any]
    metrics: dict[str, Any]
    source: FromRun | FromLoggedModel | FromFiles
    user: str


@dataclass(frozen=True)
class _Source:
    address: str
    run_id: str | None
    model_id: str | None = None


def register(request: RegistrationRequest) -> ModelVersion:
    """Register a version in Staging. What fails leaves nothing behind, and may be repeated.

    Raises:
        BadInputError: these files cannot be a model.
        NotFoundError: no such tenant, run or logged model in it.
        ConflictError: the version is taken.
    """
    tags = _tags(request)
    if isinstance(request.source, FromFiles):
        check_files(request.source.files)
    client = connect()
    with tenant_scope(request.tenant), readable_errors():
        _check_free(client, request)
        with _source(client, request, tags) as source:
            created = _create(client, request, source, tags)
        if source.run_id and not isinstance(request.source, FromFiles):
            _log_metrics(client, source.run_id, given_metrics(tags))
    return created


def _tags(request: RegistrationRequest) -> dict[str, str]:
    tags = {METADATA_TAG: json.dumps(request.metadata, sort_keys=True)}
    if request.metrics:
        tags[METRICS_TAG] = json.dumps(request.metrics, sort_keys=True)
    for tag, text in tags.items():
        if len(text) > LONGEST_TAG:
            raise BadInputError(
                f"{tag.removeprefix('ai_hub.')} has {len(text)} characters as JSON; "
                f"{LONGEST_TAG} are allowed.",
                hint="Keep long lists in a file of the model.",
            )
    if request.version:
        tags[semver.TAG] = request.version
    service = request.metadata.get("training_config", {}).get(FEATURE_SERVICE)
    if isinstance(service, str) and _SERVICE_NAME.fullmatch(service):
        tags[FEATURE_SERVICE] = service
    return tags


def _check_free(client: MlflowClient, request: RegistrationRequest) -> None:
    """Spare everybody the copying; the registry itself decides, under its lock."""
    if request.version is None:
        return
    try:
        present = client.get_model_version_by_alias(request.model, request.version)
    except MlflowException as error:
        if error.get_http_status_code() == HTTPStatus.NOT_FOUND:
            # of a tenant that is not there, too, which is said when something is created
            return
        raise
    raise ConflictError(
        f"{request.version} of {request.model} is version {present.version}, in {present.current_stage}.",
        hint="Choose another version, or leave it out to get the next one.",
    )


@contextmanager
def _source(client: MlflowClient, request: RegistrationRequest, tags: Mapping[str, str]) -> Iterator[_Source]:
    source = request.source
    if isinstance(source, FromLoggedModel):
        logged = client.get_logged_model(source.model_id)
        yield _Source(f"models:/{source.model_id}", logged.source_run_id, source.model_id)
    elif isinstance(source, FromRun):
        yield _of_run(client, source)
    else:
        name = f"{request.model} {request.version or ''}".strip()
        with uploaded(client, source.files, name, request.user) as run:
            _log_metrics(client, run.info.run_id, given_metrics(dict(tags)))
            yield _Source(f"{run.info.artifact_uri}/{FOLDER}", run.info.run_id)


def _of_run(client: MlflowClient, source: FromRun) -> _Source:
    """The files at a path of a run; `log_model` of MLflow 3 puts them into a logged model of that name."""
    path = source.path.strip("/")
    if ".." in path.split("/") or "\\" in path or not path:
        raise BadInputError(
            f"{source.path!a} is no path in a run.", hint="Name a folder of it, such as model."
        )
    run = client.get_run(source.run_id)
    names = []
    for output in reversed((run.outputs.model_outputs if run.outputs else None) or []):
        logged = client.get_logged_model(output.model_id)
        if logged.name == path:
            return _Source(f"models:/{logged.model_id}", source.run_id, str(logged.model_id))
        names.append(logged.name)
    # only now, because MLflow lists the files of logged models as if they were the run's
    if client.list_artifacts(source.run_id, path):
        return _Source(f"{run.info.artifact_uri}/{path}", source.run_id)
    folders = [item.path for item in client.list_artifacts(source.run_id) if item.is_dir]
    raise NotFoundError(
        f"Run {source.run_id} has no folder and no logged model {path}.",
        hint=f"It has: {', '.join(sorted({*names, *folders})) or 'neither'}.",
    )


def _create(
    client: MlflowClient, request: RegistrationRequest, source: _Source, tags: Mapping[str, str]
) -> ModelVersion:
    made = ensure_model(client, request.model)
    body = {
        "name": request.model,
        "source": source.address,
        "run_id": source.run_id,
        "model_id": source.model_id,
        # PostgreSQL has no character of code 0
        "description": (request.metadata.get("description") or "").replace("\0", "\ufffd"),
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    given = {key: value for key, value in body.items() if value}
    try:
        # not repeated by itself: an answer that was lost may stand for a version that is there
        answer = call("POST", _CREATE, tenant=request.tenant, json=given, timeout=_COPY_S, max_retries=0)
    except AiHubError as error:
        if made and not isinstance(error, ConflictError):
            remove_empty(client, request.model)
        raise
    number = str(answer["model_version"]["version"])
    return get_version(request.tenant, request.model, number)


def ensure_model(client: MlflowClient, name: str) -> bool:
    """Create the registered model if it is missing; whether it was."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return False
    return True


def remove_empty(client: MlflowClient, name: str) -> None:
    """Delete a registered model that got no version, as far as MLflow lets it."""
    try:
        if not client.search_model_versions(f"name = '{name}'", max_results=1):
            client.delete_registered_model(name)
    except MlflowException:
        _log.warning("Could not delete the empty model %s", name, exc_info=True)


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    """Record on the run what it does not say yet, as the last value of each; the version has them anyway."""
    try:
        known = {metric.key: metric for metric in client.get_run(run_id).data._metric_objs}  # noqa: SLF001 - with steps
        now = int(time.time() * 1000)
        news = [
            Metric(name, value, now, known[name].step if name in known else 0)
            for name, value in metrics.items()
            if name not in known or known[name].value != value
        ]
        if news:
            client.log_batch(run_id, metrics=news)
    except MlflowException:
        _log.warning("Could not log metrics to run %s", run_id, exc_info=True)


EXPERIMENT: Final = "uploads"
FOLDER: Final = "model"
#: Milliseconds after which an upload that did not end is one of a service that was killed.
ABANDONED_MS: Final = 3_600_000

_LONGEST_PATH: Final = 256
#: Says where the trained model once was, which nobody opens.
_ORIGINS: Final = frozenset({"uri"})


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
