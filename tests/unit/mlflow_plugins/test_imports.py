"""A trail that is imported is kept for good, so it may be neither endless nor deeper than pages can show."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mlflow_plugins.registration import imports


def nested(depth: int) -> Any:
    value: Any = "x"
    for number in range(depth):
        value = [value] if number % 2 else {"inner": value}
    return value


def of(transitions: list[dict[str, Any]]) -> BaseModel:
    values: dict[str, Any] = {
        "format": 1,
        "origin": {
            "server": "dev",
            "tenant": "city-works",
            "model": "demand",
            "version": 1,
            "semantic_version": "v1.0.0",
            "manifest_sha256": "0" * 64,
            "exported_by": "ann",
            "exported_at": "2026-11-01T00:00:00Z",
        },
        "description": None,
        **{name: {} for name in ("tags", "params", "metrics", "run_tags", "files", "registry_files")},
        "lineage": {
            **dict.fromkeys(
                ("run_id", "source", "author", "registered_at", "feature_service", "code_version")
            ),
            "datasets": [],
        },
        "transitions": transitions,
    }
    return imports.ExportedVersion.model_validate(values)


def test_trail__as_usual__is_taken() -> None:
    assert of([{"evidence": nested(10)}])


@pytest.mark.parametrize("trail", [[{"evidence": nested(200)}], [{"reason": "x" * 1_000_001}]])
def test_trail__too_deep_or_too_long__is_refused(trail: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="a trail has at most 1,000,000 characters and 20 values"):
        of(trail)
