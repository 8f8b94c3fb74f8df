"""What the tags of a version say of it: what its registration stated, and what the registry found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.registration.model_metadata import (
    CARD_TAG,
    CUSTOM,
    METADATA_TAG,
    METRICS_TAG,
    tag_document,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.registry.versions import ModelVersion

#: Metrics with a field of their own; all others are custom ones.
STANDARD: Final = ("accuracy", "precision", "recall", "f1_score", "rmse", "mae", "mape", "r2_score")
UNKNOWN: Final = "unknown"
#: Tags and parameters in which `ai-hub train` and others say what they predict, and how.
_KIND: Final = "kind"
_TARGET: Final = "target"


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata and metrics by the field names of the REST service, and the size of all files in bytes."""

    metadata: dict[str, Any]
    metrics: dict[str, Any]
    size_bytes: int


def model_metadata(version: ModelVersion) -> ModelMetadata:
    """Metadata of a version: what its registration stated, completed with what the registry found."""
    found = tag_document(version.tags, CARD_TAG)
    given = tag_document(version.tags, METADATA_TAG)
    size = found.get("size_bytes")
    return ModelMetadata(
        metadata=_metadata(version, given, found),
        metrics=_metrics(tag_document(version.tags, METRICS_TAG), _mapping(found, "metrics")),
        size_bytes=size if isinstance(size, int) else 0,
    )


def _metadata(version: ModelVersion, given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _mapping(found, "hyperparameters")
    framework = found.get("framework")
    kind = version.tags.get(_KIND) or parameters.get(_KIND)
    derived = {
        "model_type": kind or framework or UNKNOWN,
        "framework": framework,
        "hyperparameters": parameters,
        "feature_names": found.get("feature_names"),
        "target_variable": parameters.get(_TARGET),
        "description": version.description,
    }
    return {
        **{name: value for name, value in derived.items() if value},
        **{name: value for name, value in given.items() if value not in ({}, [], None)},
    }


def _metrics(given: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    if given:
        return given
    standard = {name: found[name] for name in STANDARD if name in found}
    custom = {name: value for name, value in found.items() if name not in STANDARD}
    return {**standard, CUSTOM: custom}


def _mapping(tag_document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = tag_document.get(name)
    return value if isinstance(value, dict) else {}
