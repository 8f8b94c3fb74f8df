"""What the lists of tenants and of models show, from a fixed number of queries on MLflow's tables.

They are read by columns, because MLflow's objects ask the database one by one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)

from mlflow_plugins.errors import missing
from mlflow_plugins.lifecycle import audit, discussions, rules, semver
from mlflow_plugins.lifecycle.audit import ModelKey, Transition

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session


# MLflow declares its tables without types
model_table: Final = cast("sa.Table", SqlRegisteredModel.__table__)
version_table: Final = cast("sa.Table", SqlModelVersion.__table__)
_model_tags: Final = cast("sa.Table", SqlRegisteredModelTag.__table__)
_version_tags: Final = cast("sa.Table", SqlModelVersionTag.__table__)


def is_model(table: sa.Table) -> sa.ColumnElement[bool]:
    """Condition: what the row is about is no prompt, which MLflow keeps in the same tables."""
    prompt = sa.exists().where(
        _model_tags.c.workspace == table.c.workspace,
        _model_tags.c.name == table.c.name,
        _model_tags.c.key == IS_PROMPT_TAG_KEY,
        _model_tags.c.value == "true",
    )
    return ~prompt


def tag_of_versions(session: Session, model: ModelKey, key: str) -> dict[int, str]:
    """The values of a tag by version of the model."""
    tags = _version_tags.c
    mine = (tags.workspace == model.workspace, tags.name == model.name, tags.key == key)
    return {
        row.version: row.value for row in session.execute(sa.select(tags.version, tags.value).where(*mine))
    }


def select_versions(tenant: str) -> sa.Select[Any]:
    """A tenant's versions that are not deleted: MLflow's columns, and `semantic_version`."""
    number = sa.and_(
        _version_tags.c.workspace == version_table.c.workspace,
        _version_tags.c.name == version_table.c.name,
        _version_tags.c.version == version_table.c.version,
        _version_tags.c.key == semver.TAG,
    )
    return (
        sa.select(version_table, _version_tags.c.value.label("semantic_version"))
        .outerjoin(_version_tags, number)
        .where(version_table.c.workspace == tenant, version_table.c.current_stage != STAGE_DELETED_INTERNAL)
    )


#: Models in the list of those that were deleted.
DELETED: Final = 50


@dataclass(frozen=True)
class TenantRow:
    """A tenant in the list of tenants."""

    name: str
    models: int = 0
    in_production: int = 0
    candidates: int = 0
    requests: int = 0


@dataclass(frozen=True)
class InProduction:
    """The version in production; `entry` is the promotion, None when that is older than the audit trail."""

    version: int
    semantic_version: str | None
    entry: Transition | None


@dataclass(frozen=True)
class ModelRow:
    """A model in a tenant's list."""

    name: str
    production: InProduction | None
    candidates: int


def tenants(session: Session, names: Collection[str]) -> list[TenantRow]:
    """The tenants `names` with their counts, by name."""
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    models = (
        sa.select(model_table.c.workspace, sa.func.count())
        .where(model_table.c.workspace.in_(names), is_model(model_table))
        .group_by(model_table.c.workspace)
    )
    for tenant, number in session.execute(models):
        counts[tenant]["models"] = number
    versions = (
        sa.select(version_table.c.workspace, version_table.c.current_stage, sa.func.count())
        .where(version_table.c.workspace.in_(names), is_model(version_table))
        .where(version_table.c.current_stage.in_((rules.STAGING, rules.PRODUCTION)))
        .group_by(version_table.c.workspace, version_table.c.current_stage)
    )
    for tenant, stage, number in session.execute(versions):
        counts[tenant]["in_production" if stage == rules.PRODUCTION else "candidates"] = number
    asked = Counter(tenant for tenant, _ in discussions.open_requests(session, names))
    return [TenantRow(name, **counts[name], requests=asked[name]) for name in sorted(names)]


def models(session: Session, tenant: str) -> list[ModelRow]:
    """A tenant's models, by name."""
    names = session.scalars(
        sa.select(model_table.c.name)
        .where(model_table.c.workspace == tenant, is_model(model_table))
        .order_by(model_table.c.name)
    ).all()
    candidates = (
        sa.select(version_table.c.name, sa.func.count().label("number"))
        .where(version_table.c.workspace == tenant, version_table.c.current_stage == rules.STAGING)
        .group_by(version_table.c.name)
    )
    waiting = {row.name: row.number for row in session.execute(candidates)}
    in_production = select_versions(tenant).where(version_table.c.current_stage == rules.PRODUCTION)
    promoted = audit.last_promotions(session, tenant)
    production = {row.name: _in_production(row, promoted) for row in session.execute(in_production)}
    return [ModelRow(name, production.get(name), waiting.get(name, 0)) for name in names]


class VersionName(NamedTuple):
    """A version in a list to choose from."""

    version: int
    label: str
    stage: str


def versions(session: Session, tenant: str, model: str) -> list[VersionName]:
    """The versions of a model, newest first."""
    query = select_versions(tenant).where(version_table.c.name == model)
    return [
        VersionName(
            row.version,
            f"{row.version} ({row.semantic_version})" if row.semantic_version else str(row.version),
            row.current_stage,
        )
        for row in session.execute(query.order_by(version_table.c.version.desc()))
    ]


def deleted_models(session: Session, tenant: str) -> list[Transition]:
    """How the newest of the models ended that a tenant has no more, the last one first."""
    present = sa.select(model_table.c.name).where(model_table.c.workspace == tenant)
    return audit.last_of_others(session, tenant, present, DELETED)


def find_model(session: Session, tenant: str, name: str) -> ModelKey:
    """A tenant's model.

    Raises:
        MlflowException: 404, there is none by that name.
    """
    query = sa.select(model_table.c.creation_time).where(
        model_table.c.workspace == tenant, model_table.c.name == name, is_model(model_table)
    )
    found = session.execute(query).first()
    if found is None:
        raise missing(f"There is no model {name} in tenant {tenant}.")
    return ModelKey(tenant, name, found.creation_time or 0)


def _in_production(row: sa.Row[Any], promoted: dict[str, Transition]) -> InProduction:
    entry = promoted.get(row.name)
    # a promotion of another version means that this one is older than the trail
    known = entry is not None and entry.version == row.version
    return InProduction(row.version, row.semantic_version, entry if known else None)
