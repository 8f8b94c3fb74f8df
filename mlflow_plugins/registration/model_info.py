"""What a model says about itself (its `MLmodel` file) and what its run knows, for `metadata.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from mlflow_plugins.artifacts.manifest import canonical_json
from mlflow_plugins.errors import bad_input
from mlflow_plugins.lifecycle.semver import Interface

if TYPE_CHECKING:
    from collections.abc import Container

    from mlflow_plugins.artifacts.folders import Folder

MLMODEL: Final = "MLmodel"
#: Version tag, run parameter or run tag that names the Feast service the model was trained on.
FEATURE_SERVICE: Final = "feature_service"
_GENERIC_FLAVOR: Final = "python_function"


@dataclass(frozen=True)
class RunFacts:
    """Parameters, last metrics and tags of the run (and logged model) a version comes from."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def read_mlmodel(folder: Folder, paths: Container[str]) -> dict[str, Any]:
    """The parsed `MLmodel` file at the root of `folder`, which holds `paths`; empty when there is none.

    Raises:
        MlflowException: 400, it is not YAML.
    """
    if MLMODEL not in paths:
        return {}
    try:
        parsed = yaml.safe_load(b"".join(folder.read(MLMODEL)))
    except yaml.YAMLError as error:
        raise bad_input(f"{MLMODEL} of {folder} is not YAML: {error}") from error
    return parsed if isinstance(parsed, dict) else {}


def run_facts(run_id: str | None, model_id: str | None) -> RunFacts:
    """What the tracking store knows; empty for a run or logged model it does not have."""
    facts = RunFacts()
    if not (run_id or model_id):
        return facts
    client = MlflowClient()
    try:
        if run_id:
            run = client.get_run(run_id).data
            facts = RunFacts(dict(run.params), dict(run.metrics), dict(run.tags))
        if model_id:
            logged = client.get_logged_model(model_id)
            metrics = {metric.key: metric.value for metric in logged.metrics or []}
            facts = RunFacts({**facts.params, **logged.params}, {**facts.metrics, **metrics}, facts.tags)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
    return facts


def interface(mlmodel: dict[str, Any], tags: dict[str, str], facts: RunFacts) -> Interface:
    """What callers of the model depend on: its signature and its feature service."""
    service = (
        tags.get(FEATURE_SERVICE) or facts.params.get(FEATURE_SERVICE) or facts.tags.get(FEATURE_SERVICE)
    )
    signature = _signature(mlmodel)
    digest = hashlib.sha256(canonical_json(signature)).hexdigest() if signature else None
    return Interface(signature_sha256=digest, feature_service=service)


def describe(mlmodel: dict[str, Any], facts: RunFacts) -> dict[str, Any]:
    """The model's part of `metadata.json`."""
    flavors = [name for name in mlmodel.get("flavors", {}) if name != _GENERIC_FLAVOR]
    signature = _signature(mlmodel)
    inputs = signature.get("inputs") or []
    return {
        "framework": flavors[0] if flavors else _GENERIC_FLAVOR if mlmodel else None,
        "flavors": sorted(mlmodel.get("flavors", {})),
        "signature": signature or None,
        "feature_names": [column["name"] for column in inputs if "name" in column],
        "hyperparameters": facts.params,
        "model_uuid": mlmodel.get("model_uuid"),
        "mlflow_version": mlmodel.get("mlflow_version"),
    }


def _signature(mlmodel: dict[str, Any]) -> dict[str, Any]:
    # MLmodel keeps each half as JSON text inside YAML
    halves = (mlmodel.get("signature") or {}).items()
    return {name: json.loads(text) if isinstance(text, str) else text for name, text in halves if text}
