"""Registering a version: copy its files to their own folder, seal them, and only then let it exist."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.folders import Folder
from mlflow_plugins.errors import bad_input, missing
from mlflow_plugins.lifecycle.semver import Interface
from mlflow_plugins.registration.model_info import RunFacts, describe, interface, read_mlmodel, run_facts

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.destination import Destination
    from mlflow_plugins.artifacts.manifest import Sealed

#: Tag of the run (set by MLflow's client) that names the model's author.
RUN_USER_TAG: Final = "mlflow.user"
#: Version tag that says which version of another model this one was copied from.
ORIGIN_TAG: Final = "copied_from"


@dataclass(frozen=True)
class Candidate:
    """A model about to be registered: its files and what is known about it."""

    source: str
    folder: Folder | None
    paths: tuple[str, ...]
    mlmodel: dict[str, Any]
    facts: RunFacts
    interface: Interface

    @property
    def author(self) -> str | None:
        """Whom the run names as its user."""
        return self.facts.tags.get(RUN_USER_TAG)


def inspect(
    destination: Destination | None,
    location: str,
    tenant: str,
    *,
    run_id: str | None,
    model_id: str | None,
    tags: dict[str, str],
) -> Candidate:
    """Look at the files at `location` before anything is reserved or copied.

    Raises:
        MlflowException: 400 or 404, these files cannot be registered.
    """
    if destination is None:
        return Candidate(location, None, (), {}, RunFacts(), interface({}, tags, RunFacts()))
    folder = destination.folder(location, tenant)
    # what an earlier registration added is not part of the model
    paths = set(folder.files())
    if manifest.MANIFEST in paths:
        paths -= manifest.RESERVED
    if not paths:
        raise missing(f"There are no files at {location}. Log the model first, then register it.")
    if taken := sorted(manifest.RESERVED & paths):
        raise bad_input(f"The model has its own {', '.join(taken)}; the registry needs this name. Rename it.")
    mlmodel = read_mlmodel(folder)
    facts = run_facts(run_id, model_id)
    return Candidate(location, folder, tuple(sorted(paths)), mlmodel, facts, interface(mlmodel, tags, facts))


def publish(candidate: Candidate, target: Folder, identity: dict[str, Any], extra: dict[str, Any]) -> Sealed:
    """Fill the version's folder: the model's files, what is known about it, and the manifest last."""
    if candidate.folder is None:
        raise ValueError("There is no destination to publish to.")
    target.delete()  # what an interrupted attempt may have left
    target.copy_from(candidate.folder, candidate.paths)
    registered_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    metadata = {
        **identity,
        **extra,
        **describe(candidate.mlmodel, candidate.facts),
        "feature_service": candidate.interface.feature_service,
        "author": candidate.author,
        "source": candidate.source,
        "registered_at": registered_at,
    }
    target.write(manifest.METADATA, manifest.canonical_json(metadata))
    target.write(manifest.METRICS, manifest.canonical_json(_finite(candidate.facts.metrics)))
    return manifest.seal(target, {**identity, "registered_at": registered_at})


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN or infinity
    return {name: value if isfinite(value) else None for name, value in metrics.items()}
