"""What is known about one version, and how two versions differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.gates import context
from mlflow_plugins.lifecycle import stages
from mlflow_plugins.registration.model_metadata import logged_model, run_facts
from mlflow_plugins.web.lifecycle import metrics, overview
from mlflow_plugins.web.lifecycle.metrics import Metrics

if TYPE_CHECKING:
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.metrics import Comparison

#: The version tag in which people say what a model is not for; shown as Markdown.
LIMITS_TAG: Final = "limits"
#: Run parameters that say from when to when the data is, as `ai-hub train` logs them.
_WINDOW: Final = ("window_start", "window_end")
_GIT_COMMIT: Final = "mlflow.source.git.commit"
_SOURCE: Final = "mlflow.source.name"
_ABSENT: Final = "—"


@dataclass(frozen=True)
class Card:
    """A version; what nobody recorded is empty."""

    version: int
    semantic_version: str | None
    stage: str
    description: str | None
    limits: str | None
    run_id: str | None
    #: of the logged model it is
    model_id: str | None
    registered_ms: int
    #: one-line facts by their names, in the order they are shown
    facts: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    metrics: Metrics = field(default_factory=dict)
    #: why facts, parameters, features and metrics cannot be shown
    problem: str | None = None

    @property
    def label(self) -> str:
        """For example `2 (v1.0.1)`."""
        return f"{self.version} ({self.semantic_version})" if self.semantic_version else str(self.version)


@dataclass(frozen=True)
class Change:
    """A fact or parameter that differs."""

    name: str
    left: str
    right: str


@dataclass(frozen=True)
class Difference:
    """How version `right` differs from `left`; metrics are all there, the others only where they differ."""

    left: Card
    right: Card

    @property
    def facts(self) -> list[Change]:
        """Facts that differ: among them feature service and data window."""
        return _changes(self.left.facts, self.right.facts)

    @property
    def parameters(self) -> list[Change]:
        """Parameters that differ."""
        return _changes(self.left.parameters, self.right.parameters)

    @property
    def metrics(self) -> list[Comparison]:
        """Every metric of either."""
        return metrics.compare(self.right.metrics, self.left.metrics)

    @property
    def added_features(self) -> list[str]:
        """Features only the right one takes."""
        return [name for name in self.right.features if name not in self.left.features]

    @property
    def removed_features(self) -> list[str]:
        """Features only the left one takes."""
        return [name for name in self.left.features if name not in self.right.features]


def read(store: LifecycleStore, tenant: str, name: str, number: int) -> Card:
    """The card of a version of the active tenant.

    Raises:
        MlflowException: 404, there is no such model or version.
    """
    with store.sessions() as session:
        model = overview.find_model(session, tenant, name)
        row = store.version_row(session, name, number)
        registered, author = context.registered_version(session, model, row), row.user_id
        card = Card(
            row.version,
            registered.semantic_version,
            row.current_stage,
            row.description,
            stages.tag(session, row, LIMITS_TAG),
            row.run_id,
            logged_model(registered.source),
            row.creation_time,
        )
    try:
        found = context.version_info(store, model, registered)
        metadata, measured = dict(found.metadata), dict(found.metrics)
        tags = run_facts(registered.run_id, card.model_id).tags
    except MlflowException as error:
        return replace(card, problem=str(error.message))
    parameters = {key: str(value) for key, value in (metadata.get("hyperparameters") or {}).items()}
    window = [parameters.pop(key, None) for key in _WINDOW]
    return replace(
        card,
        facts={**_facts(metadata, tags, window), "Registered by": author or _ABSENT},
        parameters=parameters,
        features=tuple(map(str, metadata.get("feature_names") or ())),
        metrics=measured,
    )


def _facts(metadata: Mapping[str, Any], tags: Mapping[str, str], window: list[str | None]) -> dict[str, str]:
    begin, end = window
    found = {
        "Data window": f"{begin} to {end}" if begin and end else None,
        "Feature service": metadata.get("feature_service"),
        "Framework": metadata.get("framework"),
        "Trained by": metadata.get("author"),
        "Code version": tags.get(_GIT_COMMIT),
        "Code": tags.get(_SOURCE),
        "Logged with MLflow": metadata.get("mlflow_version"),
    }
    return {name: str(value) if value else _ABSENT for name, value in found.items()}


def _changes(left: Mapping[str, str], right: Mapping[str, str]) -> list[Change]:
    names = list(dict.fromkeys([*left, *right]))
    changes = [Change(name, left.get(name, _ABSENT), right.get(name, _ABSENT)) for name in names]
    return [change for change in changes if change.left != change.right]
