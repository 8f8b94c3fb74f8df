"""What a version's tags say about the model, so that a list of versions needs no look into their folders.

`ai_hub.metadata` and `ai_hub.metrics` are what the caller of a registration gives (the REST service does), as
JSON; `ai_hub.card` is what the registry itself found in the model's files and its run.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.registration.model_info import describe, is_finite

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.registration.publishing import NewVersion

METADATA_TAG: Final = "ai_hub.metadata"
METRICS_TAG: Final = "ai_hub.metrics"
CARD_TAG: Final = "ai_hub.card"
#: Metrics under names of the caller's own, inside `ai_hub.metrics`.
CUSTOM: Final = "custom_metrics"
#: MLflow takes 100,000 characters in a tag.
LONGEST: Final = 90_000

#: Levels of JSON inside JSON that every reader takes.
_DEEPEST: Final = 64

#: What goes first from a card that would be too long.
_SPARED: Final = ("hyperparameters", "metrics", "feature_names")


def document(tags: dict[str, str], tag: str) -> dict[str, Any]:
    """The JSON object in a tag; empty when there is none, or something else: any client may write tags."""
    text = tags.get(tag, "{}")
    try:
        found = json.loads(text, parse_constant=_refuse)
        json.dumps(found, ensure_ascii=False).encode()  # no half of a character
    except (ValueError, RecursionError):
        return {}
    deep = max(text.count("{"), text.count("[")) > _DEEPEST and _depth(found) > _DEEPEST
    return found if isinstance(found, dict) and not deep else {}


def given_metrics(tags: dict[str, str]) -> dict[str, float]:
    """Metrics by name as the caller of the registration gives them."""
    given = document(tags, METRICS_TAG)
    own = given.pop(CUSTOM, None)
    named = {**(own if isinstance(own, dict) else {}), **given}
    return {name: float(value) for name, value in named.items() if _is_number(value)}


def make(candidate: NewVersion, digest: ManifestDigest) -> str:
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
    for name in _SPARED:
        text = json.dumps(card, sort_keys=True)
        if len(text) <= LONGEST:
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
