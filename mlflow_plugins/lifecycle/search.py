"""Searching by stage. MLflow's filters know no stages, but tags of any name: this one stands for the stage.

`tags.lifecycle_stage = 'Production'` finds versions in Production, or models that have one. It is not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel

from mlflow_plugins.errors import bad_input

if TYPE_CHECKING:
    from collections.abc import Iterable

STAGE_TAG: Final = "lifecycle_stage"
Filter = dict[str, Any]


def check_tags(keys: Iterable[str]) -> None:
    """Refuse to store the tag that stands for the stage: no search would find it.

    Raises:
        MlflowException: 400.
    """
    if STAGE_TAG in keys:
        raise bad_input(
            f"Tag {STAGE_TAG} is reserved: searches by it find what is in a stage. Give the tag another name."
        )


def split(filters: Iterable[Filter]) -> tuple[list[Filter], list[Filter]]:
    """MLflow's parsed filters: those by stage, and the others."""
    every = list(filters)
    by_stage = [each for each in every if (each["type"], each["key"]) == ("tag", STAGE_TAG)]
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


def _stage(given: Filter) -> tuple[str, bool]:
    if given["comparator"] not in {"=", "!="}:
        raise bad_input(f"Compare tags.{STAGE_TAG} by = or !=, with a stage such as 'Production'.")
    return get_canonical_stage(given["value"]), given["comparator"] == "="
