"""Tags that the registry keeps to itself, and the one that stands for a stage in searches.

`tags.lifecycle_stage = 'Production'` finds versions in Production, or models that have one: MLflow's filters
know no stages, but tags of any name. It is not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.errors import bad_input, conflict
from mlflow_plugins.gates import comparison
from mlflow_plugins.lifecycle import semver
from mlflow_plugins.registration import imports, model_metadata, publishing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Version tags that only the registry writes.
OWN: Final = frozenset({manifest.TAG, publishing.ORIGIN_TAG, model_metadata.CARD_TAG, imports.TAG})
#: Version tags that never change after the registration, and why.
FIXED: Final = {
    semver.TAG: "it names the folder of the version's artifacts",
    manifest.TAG: "it fixes the version's files",
    publishing.ORIGIN_TAG: "it says where the version came from",
    publishing.KEY_TAG: "it stands for one registration",
    imports.TAG: "it says where the version came from",
    model_metadata.CARD_TAG: "it says what was registered",
    model_metadata.METADATA_TAG: "it says what was registered",
    model_metadata.METRICS_TAG: "it says what was registered",
}
STAGE: Final = "lifecycle_stage"
Filter = dict[str, Any]


def without_own(given: Mapping[str, str]) -> dict[str, str]:
    """Tags to register a version with: a copy is not what the comparisons of its original were about."""
    return {
        key: text for key, text in given.items() if key not in OWN and not key.startswith(comparison.PREFIX)
    }


def check_fixed(present: Mapping[str, str], version: int | str, key: str, value: str | None) -> None:
    """Refuse to change a fixed tag of a version that has the tags `present`; `value` None deletes it.

    Raises:
        MlflowException: 409.
    """
    if not is_kept(key) or present.get(key) == value:
        return
    if key.startswith(comparison.PREFIX):
        if key in present:
            raise conflict(
                f"Tag {key} of version {version} cannot change, because there is one look at two versions."
            )
        return
    if key in present:
        raise conflict(f"Tag {key}={present[key]} of version {version} cannot change, because {FIXED[key]}.")
    raise conflict(f"Tag {key} is set at registration and never later, because {FIXED[key]}.")


def is_kept(key: str) -> bool:
    """Whether a tag of a version cannot change once it is there."""
    return key in FIXED or key.startswith(comparison.PREFIX)


def check_stage(keys: Iterable[str]) -> None:
    """Refuse to store the tag that stands for the stage: no search would find it.

    Raises:
        MlflowException: 400.
    """
    if STAGE in keys:
        raise bad_input(
            f"Tag {STAGE} is reserved: searches by it find what is in a stage. Give the tag another name."
        )


def split(filters: Iterable[Filter]) -> tuple[list[Filter], list[Filter]]:
    """MLflow's parsed filters: those by stage, and the others."""
    every = list(filters)
    by_stage = [each for each in every if (each["type"], each["key"]) == ("tag", STAGE)]
    return by_stage, [each for each in every if each not in by_stage]


def of_versions(filters: Iterable[Filter]) -> list[sa.ColumnElement[bool]]:
    """Conditions on a version.

    Raises:
        MlflowException: 400, no such stage or comparison.
    """
    column: sa.Column[str] = SqlModelVersion.current_stage
    return [column == stage if is_in else column != stage for stage, is_in in map(_stage, filters)]


def of_models(filters: Iterable[Filter]) -> list[sa.ColumnElement[bool]]:
    """Conditions on a model: that it has a version in a stage (or with `!=` has none).

    Raises:
        MlflowException: 400, no such stage or comparison.
    """
    versions, models = cast("Any", SqlModelVersion), cast("Any", SqlRegisteredModel)
    conditions = []
    for stage, is_in in map(_stage, filters):
        exists = sa.exists().where(
            versions.workspace == models.workspace,
            versions.name == models.name,
            versions.current_stage == stage,
        )
        conditions.append(exists if is_in else ~exists)
    return conditions


def _stage(condition: Filter) -> tuple[str, bool]:
    if condition["comparator"] not in {"=", "!="}:
        raise bad_input(f"Compare tags.{STAGE} by = or !=, with a stage such as 'Production'.")
    return get_canonical_stage(condition["value"]), condition["comparator"] == "="
