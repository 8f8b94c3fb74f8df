"""What is told about a version, from what its tags say."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.registry.metadata import model_metadata
from ai_hub.registry.versions import ModelVersion
from mlflow_plugins.registration.model_metadata import (
    CARD_TAG,
    METADATA_TAG,
    METRICS_TAG,
    given_metrics,
    tag_document,
)

_numbers = st.floats(allow_nan=False, allow_infinity=False)
_names = st.from_regex(r"[a-z][a-z0-9_.]{0,9}", fullmatch=True)


def _version(tags: dict[str, str], description: str | None = None) -> ModelVersion:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ModelVersion("acme", "demand", 1, "v1.0.0", "Staging", (), None, at, tags, {}, description)


@given(st.fixed_dictionaries({"mae": _numbers, "custom_metrics": st.dictionaries(_names, _numbers)}))
def test_card__has_the_metrics_that_were_given_as_they_were(metrics: dict[str, Any]) -> None:
    found = json.dumps({"metrics": {"mae": 1.0, "rmse": 2.0}})
    version = _version({METRICS_TAG: json.dumps(metrics), CARD_TAG: found})
    assert model_metadata(version).metrics == metrics
    assert given_metrics(version.tags) == {**metrics["custom_metrics"], "mae": metrics["mae"]}


def test_card__without_anything_given__is_what_the_registry_found() -> None:
    found = {
        "framework": "lightgbm",
        "feature_names": ["lag_1h"],
        "hyperparameters": {"leaves": "31", "kind": "weekly"},
        "metrics": {"mae": 1.0, "drift": 0.5},
        "size_bytes": 7,
    }
    card = model_metadata(_version({CARD_TAG: json.dumps(found)}, "by hand"))
    assert card.metadata == {
        "model_type": "weekly",
        "framework": "lightgbm",
        "hyperparameters": found["hyperparameters"],
        "feature_names": ["lag_1h"],
        "description": "by hand",
    }
    assert card.metrics == {"mae": 1.0, "custom_metrics": {"drift": 0.5}}
    assert card.size_bytes == 7


def test_card__of_a_version_without_tags__says_that_nothing_is_known() -> None:
    card = model_metadata(_version({}))
    assert (card.metadata, card.metrics, card.size_bytes) == (
        ({"model_type": "unknown"}, {"custom_metrics": {}}, 0)
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "nothing", "[1]", "3", '{"a": NaN}', '{"a": Infinity}', '{"a": "\\ud800"}'),
        '{"a":' * 100 + "1" + "}" * 100,
        "[" * 10**5,
    ],
    ids=lambda text: text[:12],
)
def test_document__that_no_answer_could_carry__is_empty(text: str) -> None:
    assert tag_document({METADATA_TAG: text}, METADATA_TAG) == {}


@given(st.dictionaries(_names, st.one_of(_numbers, st.booleans(), st.none(), st.text(), st.just(math.nan))))
def test_given_metrics__are_finite_numbers(values: dict[str, Any]) -> None:
    expected = {
        name: value for name, value in values.items() if isinstance(value, float) and math.isfinite(value)
    }
    tags = {METRICS_TAG: json.dumps({"custom_metrics": values})}
    if not any(isinstance(value, float) and math.isnan(value) for value in values.values()):
        assert given_metrics(tags) == expected
    else:
        assert given_metrics(tags) == {}
