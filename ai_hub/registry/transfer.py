"""Versions between servers and tenants: exported with all that is known about them, imported in Staging."""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from pydantic import ValidationError

from ai_hub.errors import ConflictError
from ai_hub.registry import bundle, registering
from ai_hub.registry.loading import download_version
from ai_hub.registry.registering import ensure_model, remove_empty
from ai_hub.registry.server import call, connect, model_path, readable_errors, tracking_uri
from ai_hub.registry.tenants import tenant_scope
from ai_hub.registry.versions import (
    REQUEST_TAG,
    ModelVersion,
    find_version,
    get_version,
    history,
    search,
)
from ai_hub.servers import without_secrets
from ai_hub.times import to_millis
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.gates import comparison
from mlflow_plugins.lifecycle import semver
from mlflow_plugins.registration import imports
from mlflow_plugins.registration.model_metadata import CARD_TAG, FEATURE_SERVICE, METRICS_TAG, MLMODEL
from mlflow_plugins.registration.publishing import KEY_TAG, ORIGIN_TAG, RUN_USER_TAG
from mlflow_plugins.store.promoting import present_metrics
from mlflow_plugins.users.permissions import ACTOR_TAG, REASON_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Stands for the next semantic version.
NEXT: Final = "next"
_COMMIT: Final = "mlflow.source.git.commit"
#: Tags of MLflow's own that say where a run came from.
_RUN_TAGS: Final = frozenset({
    _COMMIT, "mlflow.source.git.branch", "mlflow.source.git.repoURL", "mlflow.source.name",
    "mlflow.source.type", "mlflow.note.content",
})  # fmt: skip
#: Tags of a version that the registry writes, or uses up, or that are of this installation.
_NOT_CARRIED: Final = frozenset({
    manifest.TAG, semver.TAG, CARD_TAG, ORIGIN_TAG, KEY_TAG, imports.TAG, REASON_TAG, ACTOR_TAG,
    REQUEST_TAG,
})  # fmt: skip
#: What MLflow takes at once.
_METRICS, _PARAMS = 1000, 100
#: Seconds the registry may take to copy a version's files and hash them.
_COPY_S: Final = 300
#: Rows of an audit trail.
_ROWS: Final = 10_000


@dataclass(frozen=True)
class Export:
    """What was written; `sha256` stands for every byte of it."""

    version: ModelVersion
    files: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Import:
    """The version by its number here; `is_new` is off where it had been imported before."""

    tenant: str
    model: str
    version: int
    semantic_version: str
    stage: str
    origin: imports.Origin
    is_new: bool


def export_version(tenant: str, model: str, version: str | int, target: Path) -> Export:
    """Write a version (see `find_version`) to `target`: an archive if that ends in `.zip`, else a folder.

    Raises:
        ConflictError: its files are not what was registered, or `target` exists.
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    with tempfile.TemporaryDirectory(prefix="ai-hub-export-") as scratch:
        folder = download_version(chosen, Path(scratch, "files"))
        exported = _described(chosen, folder)
        listed = [*exported.files.values(), *exported.registry_files.values()]
        sha256 = bundle.write(folder, exported, target)
    return Export(chosen, len(listed), sum(entry.size for entry in listed), sha256)


def import_version(
    path: Path,
    tenant: str,
    *,
    model: str | None = None,
    version: str | None = None,
    sha256: str | None = None,
    reason: str | None = None,
) -> Import:
    """Register the export at `path` in Staging; what fails leaves nothing behind, and may be repeated.

    Args:
        path: what `export_version` wrote.
        tenant: who gets it.
        model: its name there; default: the name it has.
        version: its semantic version there, or `next`; default: the one it has.
        sha256: what the export said it is; another one is refused.
        reason: why, for the audit trail.

    Raises:
        BadInputError: the export is not as it was written.
        ConflictError: the number is taken by something else.
        NotFoundError: no such tenant.
    """
    # it would go to standard output, which may be read by a program
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    with bundle.opened(path, sha256) as found:
        exported = found.version
        if MLMODEL in exported.files:
            registering.check_mlmodel((found.folder / MLMODEL).read_bytes())
        name = model or exported.origin.model
        client = connect()
        with tenant_scope(tenant), readable_errors():
            present = _imported_before(tenant, name, exported.origin)
            if present is not None:
                return _result(present, exported.origin, is_new=False)
            created = _register(client, tenant, name, version, found, reason)
            return _result(
                get_version(tenant, name, str(created)),
                exported.origin,
                is_new=True,
            )


def _described(version: ModelVersion, folder: Path) -> imports.ExportedVersion:
    entries = {
        local.relative_to(folder).as_posix(): _fingerprint(local)
        for local in sorted(folder.rglob("*"))
        if local.is_file()
    }
    own = {name: manifest.place(entries, name) for name in manifest.RESERVED}
    metadata = json.loads((folder / own[manifest.METADATA]).read_bytes())
    recorded = json.loads((folder / own[manifest.METRICS]).read_bytes())
    client = connect()
    with tenant_scope(version.tenant), readable_errors():
        entity = client.get_model_version(version.model, str(version.version))
        given = version.tags.get(METRICS_TAG)
        metrics = present_metrics(recorded, given, entity.source or "", version.run_id, client)
        run = _run(client, version.run_id)
    rows = history(version.tenant, version.model, version=version.version, limit=_ROWS)
    return imports.ExportedVersion(
        format=1,
        origin=_origin(version),
        description=version.description,
        tags={
            key: text
            for key, text in version.tags.items()
            # numbers of versions are of this registry
            if key not in _NOT_CARRIED and not key.startswith(comparison.PREFIX)
        },
        params=metadata["hyperparameters"],
        metrics=metrics,
        run_tags=_run_tags(run),
        lineage=imports.Lineage(
            run_id=version.run_id,
            source=entity.source,
            author=metadata.get("author"),
            registered_at=metadata.get("registered_at"),
            feature_service=metadata.get("feature_service"),
            code_version=run.data.tags.get(_COMMIT) if run else None,
            datasets=_datasets(run),
        ),
        transitions=[{**asdict(row), "at": row.at.isoformat()} for row in rows],
        files={path: entry for path, entry in entries.items() if path not in own.values()},
        registry_files={path: entry for path, entry in entries.items() if path in own.values()},
    )


def _origin(version: ModelVersion) -> imports.Origin:
    return imports.Origin(
        server=without_secrets(tracking_uri()),
        tenant=version.tenant,
        model=version.model,
        version=version.version,
        semantic_version=str(version.semantic_version),
        manifest_sha256=str(version.manifest_sha256),
        exported_by=_user(),
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _user() -> str:
    """The login that the server knows; without one, that of this machine."""
    login = get_default_host_creds(tracking_uri()).username
    try:
        return login or getpass.getuser()
    except (KeyError, OSError):  # no such user in the system, as in many containers
        return "unknown"


def _run(client: MlflowClient, run_id: str | None) -> Run | None:
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        # a run may be cleaned up; its registered version stays
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def _run_tags(run: Run | None) -> dict[str, str]:
    tags = run.data.tags if run else {}
    return {
        key: text
        for key, text in tags.items()
        if key in _RUN_TAGS or (not key.startswith("mlflow.") and key != REQUEST_TAG)
    }


def _datasets(run: Run | None) -> list[imports.Dataset]:
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    return [
        imports.Dataset(
            name=item.dataset.name,
            digest=item.dataset.digest,
            source_type=item.dataset.source_type,
            source=item.dataset.source,
            schema=item.dataset.schema,
            profile=item.dataset.profile,
            tags={tag.key: tag.value for tag in item.tags},
        )
        for item in inputs
    ]


def _fingerprint(local: Path) -> imports.Fingerprint:
    with local.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return imports.Fingerprint(size=local.stat().st_size, sha256=sha256)


def _imported_before(tenant: str, model: str, origin: imports.Origin) -> ModelVersion | None:
    """The version that these very files were imported as.

    Raises:
        ConflictError: the version is there itself, not as an import.
    """
    for found in search(tenant, model):
        if found.manifest_sha256 == origin.manifest_sha256:
            raise ConflictError(
                f"{model} of tenant {tenant} has this very version: it is {found.version}.",
                hint="Name another model with --model, or another tenant.",
            )
        try:
            imported = imports.Origin.model_validate_json(found.tags.get(imports.TAG, ""))
        except ValidationError:
            continue  # none, or a tag that somebody else gave this name
        if imported.manifest_sha256 == origin.manifest_sha256:
            return found
    return None


def _register(  # noqa: PLR0917  # what it registers, whose, and why
    client: MlflowClient,
    tenant: str,
    model: str,
    number: str | None,
    found: bundle.Bundle,
    reason: str | None,
) -> int:
    exported = found.version
    wanted = exported.origin.semantic_version if number is None else number
    with registering.uploaded_folder(
        client, found.folder, f"{model} {wanted}", _tags_of_run(exported)
    ) as run:
        _log(client, run.info.run_id, exported)
        body = {
            "run_id": run.info.run_id,
            "exported": exported.model_dump(mode="json", by_alias=True),
            "semantic_version": None if wanted == NEXT else wanted,
            "reason": reason,
        }
        made = ensure_model(client, model)
        try:
            # not repeated by itself: an answer that was lost may stand for a version that is there
            route = f"{model_path(model)}/imports"
            answer = call("POST", route, tenant=tenant, json=body, timeout=_COPY_S, max_retries=0)
        except BaseException:
            if made:
                remove_empty(client, model)
            raise
    return int(answer["version"])


def _tags_of_run(exported: imports.ExportedVersion) -> dict[str, str]:
    known = {RUN_USER_TAG: exported.lineage.author, FEATURE_SERVICE: exported.lineage.feature_service}
    return {
        **exported.run_tags,
        **{key: text for key, text in known.items() if text},
        imports.TAG: exported.origin.as_tag(),
    }


def _log(client: MlflowClient, run_id: str, exported: imports.ExportedVersion) -> None:
    """Give the run what the one it stands for had."""
    now = to_millis(datetime.now(UTC))
    metrics = [Metric(name, value, now, 0) for name, value in exported.metrics.items() if value is not None]
    params = [Param(name, value) for name, value in exported.params.items()]
    for start in range(0, len(metrics), _METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS])
    for start in range(0, len(params), _PARAMS):
        client.log_batch(run_id, params=params[start : start + _PARAMS])
    if exported.lineage.datasets:
        client.log_inputs(run_id, [_dataset_input(item) for item in exported.lineage.datasets])


def _dataset_input(item: imports.Dataset) -> DatasetInput:
    fields = item.model_dump(by_alias=True, exclude={"tags"})
    return DatasetInput(Dataset(**fields), [InputTag(key, text) for key, text in item.tags.items()])


def _result(version: ModelVersion, origin: imports.Origin, *, is_new: bool) -> Import:
    return Import(
        version.tenant,
        version.model,
        version.version,
        str(version.semantic_version),
        version.stage,
        origin,
        is_new,
    )
