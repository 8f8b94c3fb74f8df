"""What a model says about itself (its `MLmodel` file), what its run knows, and what its version's tags say.

The first two make `metadata.json`. By the tags a list of versions needs no look into their folders:
`ai_hub.metadata` and `ai_hub.metrics` are what the caller of a registration gives (the REST service does), as
JSON; `ai_hub.card` is what the registry itself found in the model's files and its run.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field, replace
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, Final

import yaml

from mlflow_plugins.artifacts.manifest import canonical_json
from mlflow_plugins.errors import bad_input
from mlflow_plugins.lifecycle.semver import Interface

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from mlflow_plugins.artifacts.folders import Folder
    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.registration.publishing import NewVersion


METADATA_TAG: Final = "ai_hub.metadata"
METRICS_TAG: Final = "ai_hub.metrics"
CARD_TAG: Final = "ai_hub.card"
#: Metrics under names of the caller's own, inside `ai_hub.metrics`.
CUSTOM: Final = "custom_metrics"
#: MLflow takes 100,000 characters in a tag.
LONGEST_TAG: Final = 90_000

#: Levels of JSON inside JSON that every reader takes.
_DEEPEST_TAG: Final = 64

#: What goes first from a card that would be too long.
_LEFT_OUT_FIRST: Final = ("hyperparameters", "metrics", "feature_names")
MLMODEL: Final = "MLmodel"
#: Version tag, run parameter or run tag that names the Feast service the model was trained on.
FEATURE_SERVICE: Final = "feature_service"
_LONGEST_SERVICE: Final = 256
#: MLflow's tag of what a dataset of a run was for.
_CONTEXT: Final = "mlflow.data.context"
_LOGGED_MODEL: Final = re.compile(r"(?:^models:|/models)/(m-[0-9a-f]{32})(?:/artifacts)?/?$")
_GENERIC_FLAVOR: Final = "python_function"
#: Bytes of an `MLmodel` file, and values in it.
_LARGEST: Final = 2_000_000
_MOST_NODES: Final = 200_000


#: The one in C is ten times as fast.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RunFacts:
    """Parameters, last metrics and tags of the run (and logged model) a version comes from."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    #: datasets of the run by what they were for, as MLflow's JSON
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: of `metrics`, those that were logged for the logged model itself
    own_metrics: dict[str, float] = field(default_factory=dict)


def is_finite(value: float) -> bool:
    """Whether a metric is a number to compare; MLflow's databases keep infinity as the largest float."""
    return isfinite(value) and abs(value) < sys.float_info.max


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON takes them: None for NaN and infinity."""
    return {name: value if is_finite(value) else None for name, value in metrics.items()}


def read_mlmodel(folder: Folder, paths: Container[str]) -> dict[str, Any]:
    """The parsed `MLmodel` file at the root of `folder`, which holds `paths`; empty when there is none.

    Raises:
        MlflowException: 400, it is not what MLflow writes.
    """
    if MLMODEL not in paths:
        return {}
    try:
        return parse_mlmodel(b"".join(folder.read(MLMODEL)))
    except ValueError as error:
        raise bad_input(f"{MLMODEL} of {folder} {error}") from error


def parse_mlmodel(document: bytes) -> dict[str, Any]:
    """The contents of an `MLmodel` file.

    Raises:
        ValueError: what is wrong with it.
    """
    if len(document) > _LARGEST:
        raise ValueError(f"has {len(document)} bytes; {_LARGEST} are allowed.")
    try:
        parsed = yaml.load(document, _Loader)  # noqa: S506 - a safe one
        if _size(parsed, {}) > _MOST_NODES:
            raise ValueError(f"holds more than {_MOST_NODES} values once its references are followed.")
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ValueError(f"is not YAML: {error}") from error
    if not isinstance(parsed, dict):
        return {}
    try:
        describe(parsed, RunFacts())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"does not describe a model as MLflow does: {error}") from error
    return parsed


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values there are when every reference is a copy: a small file can stand for billions."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_NODES + 1  # what holds itself has no end
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def run_facts(run_id: str | None, model_id: str | None, client: MlflowClient | None = None) -> RunFacts:
    """What the tracking store knows; empty for a run or logged model it does not have.

    Metrics of a run that logged several models are those of no model in particular, so they are left out.
    """
    facts = RunFacts()
    if not (run_id or model_id):
        return facts
    # MLflow takes seconds to import, and who reads tags does not need it
    from mlflow import MlflowClient  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode  # noqa: PLC0415

    client = client or MlflowClient()
    try:
        if run_id:
            run = client.get_run(run_id)
            outputs = run.outputs.model_outputs if run.outputs else []
            is_shared = bool(model_id) and any(output.model_id != model_id for output in outputs)
            metrics = {} if is_shared else dict(run.data.metrics)
            datasets = {
                tag.value: each.dataset.to_dictionary()
                for each in (run.inputs.dataset_inputs if run.inputs else ())
                for tag in each.tags
                if tag.key == _CONTEXT
            }
            facts = RunFacts(dict(run.data.params), metrics, dict(run.data.tags), datasets)
        if model_id:
            logged = client.get_logged_model(model_id)
            # every step of a metric is there, in no order
            steps = sorted(logged.metrics or [], key=lambda metric: (metric.step, metric.timestamp))
            last = {metric.key: metric for metric in steps}
            own = {key: _logged_value(client, metric) for key, metric in last.items()}
            facts = replace(
                facts,
                params={**facts.params, **logged.params},
                metrics={**facts.metrics, **own},
                own_metrics=own,
            )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
    return facts


def _logged_value(client: MlflowClient, metric: Metric) -> float:
    """The value of a logged model's metric: MLflow keeps 0 for one that was NaN, which only its run tells."""
    if metric.value or not metric.run_id:
        return float(metric.value)
    noted = client.get_run(metric.run_id).data.metrics.get(metric.key)
    return float("nan") if noted is not None and isnan(noted) else 0.0


def logged_model(source: str) -> str | None:
    """The logged model that a version's `source` is, by its address or its folder; None for anything else."""
    found = _LOGGED_MODEL.search(source)
    return found[1] if found else None


def interface(mlmodel: dict[str, Any], tags: dict[str, str], facts: RunFacts) -> Interface:
    """What callers of the model depend on: its signature and its feature service."""
    service = (
        tags.get(FEATURE_SERVICE) or facts.params.get(FEATURE_SERVICE) or facts.tags.get(FEATURE_SERVICE)
    )
    if service is not None and len(service) > _LONGEST_SERVICE:
        raise bad_input(
            f"{FEATURE_SERVICE} has {len(service)} characters; at most {_LONGEST_SERVICE} can be kept."
        )
    columns = signature(mlmodel)
    digest = hashlib.sha256(canonical_json(columns)).hexdigest() if columns else None
    return Interface(signature_sha256=digest, feature_service=service)


def describe(mlmodel: dict[str, Any], facts: RunFacts) -> dict[str, Any]:
    """The model's part of `metadata.json`."""
    known: dict[str, Any] = mlmodel.get("flavors") or {}
    if not isinstance(known, dict):
        raise TypeError("its flavors are no mapping")
    flavors = [name for name in known if name != _GENERIC_FLAVOR]
    columns = signature(mlmodel)
    inputs = columns.get("inputs") or []
    return {
        "framework": flavors[0] if flavors else _GENERIC_FLAVOR if mlmodel else None,
        "flavors": sorted(known),
        "signature": columns or None,
        "feature_names": [column["name"] for column in inputs if "name" in column],
        "hyperparameters": facts.params,
        "model_uuid": mlmodel.get("model_uuid"),
        "mlflow_version": mlmodel.get("mlflow_version"),
    }


def signature(mlmodel: Any) -> dict[str, Any]:
    """Inputs and outputs as parsed JSON; empty when the file says nothing about them."""
    if not isinstance(mlmodel, dict):
        return {}
    # MLmodel keeps each half as JSON text inside YAML
    halves = (mlmodel.get("signature") or {}).items()
    return {name: json.loads(text) if isinstance(text, str) else text for name, text in halves if text}


def tag_document(tags: dict[str, str], tag: str) -> dict[str, Any]:
    """The JSON object in a tag; empty when there is none, or something else: any client may write tags."""
    text = tags.get(tag, "{}")
    try:
        found = json.loads(text, parse_constant=_refuse)
        json.dumps(found, ensure_ascii=False).encode()  # no half of a character
    except (ValueError, RecursionError):
        return {}
    deep = max(text.count("{"), text.count("[")) > _DEEPEST_TAG and _depth(found) > _DEEPEST_TAG
    return found if isinstance(found, dict) and not deep else {}


def given_metrics(tags: dict[str, str]) -> dict[str, float]:
    """Metrics by name as the caller of the registration gives them."""
    given = tag_document(tags, METRICS_TAG)
    own = given.pop(CUSTOM, None)
    named = {**(own if isinstance(own, dict) else {}), **given}
    return {name: float(value) for name, value in named.items() if _is_number(value)}


def make_card(candidate: NewVersion, digest: ManifestDigest) -> str:
    """The card of a version as text."""
    described = describe(candidate.mlmodel, candidate.facts)
    card: dict[str, Any] = {
        "framework": described["framework"],
        "feature_names": described["feature_names"],
        "hyperparameters": described["hyperparameters"],
        "feature_service": candidate.interface.feature_service,
        "metrics": {name: value for name, value in candidate.facts.metrics.items() if is_finite(value)},
        "size_bytes": digest.size_bytes,
    }
    for name in _LEFT_OUT_FIRST:
        text = json.dumps(card, sort_keys=True)
        if len(text) <= LONGEST_TAG:
            return text
        del card[name]
    return json.dumps(card, sort_keys=True)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _refuse(name: str) -> float:
    raise ValueError(f"JSON has no {name}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
