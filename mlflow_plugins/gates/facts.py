"""Reads what gates judge a version by: its sealed folder, and what its run has recorded since."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.gates.candidacy import Facts
from mlflow_plugins.registration import sources
from mlflow_plugins.registration.cards import METRICS_TAG, given_metrics
from mlflow_plugins.registration.model_info import (
    describe,
    finite,
    interface,
    logged_model,
    read_mlmodel,
    run_facts,
)
from mlflow_plugins.registration.publishing import RUN_USER_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow import MlflowClient
    from mlflow.store.model_registry.abstract_store import AbstractStore

    from mlflow_plugins.artifacts.folders import Folder
    from mlflow_plugins.gates.situation import Registered
    from mlflow_plugins.lifecycle.audit import ModelKey


def facts(store: AbstractStore, model: ModelKey, version: Registered) -> Facts:
    """What is known about `version`, read when it is asked for."""

    def metrics_of(sealed: Mapping[str, float | None]) -> dict[str, float | None]:
        return present_metrics(sealed, version.given_metrics, version.source, version.run_id)

    found = _sealed_folder(model, version)
    if found is not None:
        folder, digest = found
        return Facts(
            version.version,
            version.semantic_version,
            lambda: metrics_of(sealed_document(folder, digest, manifest.METRICS)),
            lambda: sealed_document(folder, digest, manifest.METADATA),
            version.run_id,
        )
    return Facts(
        version.version,
        version.semantic_version,
        lambda: metrics_of({}),
        lambda: _described(store, model, version),
        version.run_id,
    )


def present_metrics(
    sealed: Mapping[str, float | None],
    given: str | None,
    source: str,
    run_id: str | None,
    client: MlflowClient | None = None,
) -> dict[str, float | None]:
    """What a version's metrics are by now.

    What the caller of the registration gave counts before all. Those of its logged model are the version's
    whenever they were logged, as MLflow's autolog goes on while it registers. Of its run, which may belong
    to many, only what was not sealed counts.

    Args:
        sealed: `metrics.json` of the version's folder.
        given: the version's tag `ai_hub.metrics`.
        source: where the version was registered from.
        run_id: its run.
        client: of the tracking server; default: this process's own.
    """
    found = run_facts(run_id, logged_model(source), client)
    told = given_metrics({METRICS_TAG: given} if given else {})
    return {**finite(found.metrics), **sealed, **finite(found.own_metrics), **told}


def verify(model: ModelKey, version: Registered) -> dict[str, Any] | None:
    """Check all files against the manifest (see `manifest.verify`); None without a manifest."""
    sealed = _sealed_folder(model, version)
    return manifest.verify(*sealed) if sealed else None


def _sealed_folder(model: ModelKey, version: Registered) -> tuple[Folder, str] | None:
    destination = current_destination()
    if destination is None or version.location is None or version.manifest_sha256 is None:
        return None
    return destination.folder(version.location, model.workspace), version.manifest_sha256


def sealed_document(folder: Folder, manifest_sha256: str, name: str) -> dict[str, Any]:
    """One of our JSON files, checked on the way, because not every policy checks the whole folder."""
    listed = manifest.read(folder, manifest_sha256)
    path = manifest.place(listed, name)
    content = b"".join(folder.read(path))
    if hashlib.sha256(content).hexdigest() != listed[path]["sha256"]:
        raise manifest.tampered(folder, path, "was changed")
    return dict(json.loads(content))


def _described(store: AbstractStore, model: ModelKey, version: Registered) -> dict[str, Any]:
    """What would be in `metadata.json`, from where the version was registered from."""
    origin = sources.resolve(store, model.workspace, version.source, version.run_id, None)
    known = run_facts(origin.run_id, origin.model_id)
    mlmodel = {}
    if (destination := current_destination()) is not None:
        folder = destination.folder(origin.location, model.workspace)
        mlmodel = read_mlmodel(folder, folder.files())
    tags = store.get_model_version(model.name, version.version).tags
    return {
        **describe(mlmodel, known),
        "feature_service": interface(mlmodel, tags, known).feature_service,
        "author": known.tags.get(RUN_USER_TAG),
    }
