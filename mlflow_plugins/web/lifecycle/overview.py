"""What the lists of tenants and of models show, from a fixed number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)

from mlflow_plugins.errors import missing
from mlflow_plugins.lifecycle import audit, rules, semver
from mlflow_plugins.lifecycle.audit import ModelKey, Transition

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session

# MLflow declares its tables without types
_models = cast("sa.Table", SqlRegisteredModel.__table__)
_model_tags = cast("sa.Table", SqlRegisteredModelTag.__table__)
_versions = cast("sa.Table", SqlModelVersion.__table__)
_version_tags = cast("sa.Table", SqlModelVersionTag.__table__)


@dataclass(frozen=True)
class TenantRow:
    """A tenant in the list of tenants."""

    name: str
    models: int = 0
    in_production: int = 0
    candidates: int = 0


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
        sa.select(_models.c.workspace, sa.func.count())
        .where(_models.c.workspace.in_(names), _is_model(_models))
        .group_by(_models.c.workspace)
    )
    for tenant, number in session.execute(models):
        counts[tenant]["models"] = number
    versions = (
        sa.select(_versions.c.workspace, _versions.c.current_stage, sa.func.count())
        .where(_versions.c.workspace.in_(names), _is_model(_versions))
        .where(_versions.c.current_stage.in_((rules.STAGING, rules.PRODUCTION)))
        .group_by(_versions.c.workspace, _versions.c.current_stage)
    )
    for tenant, stage, number in session.execute(versions):
        counts[tenant]["in_production" if stage == rules.PRODUCTION else "candidates"] = number
    return [TenantRow(name, **counts[name]) for name in sorted(names)]


def models(session: Session, tenant: str) -> list[ModelRow]:
    """A tenant's models, by name."""
    names = session.scalars(
        sa.select(_models.c.name)
        .where(_models.c.workspace == tenant, _is_model(_models))
        .order_by(_models.c.name)
    ).all()
    waiting: dict[str, int] = dict(
        session.execute(
            sa.select(_versions.c.name, sa.func.count())
            .where(_versions.c.workspace == tenant, _versions.c.current_stage == rules.STAGING)
            .group_by(_versions.c.name)
        )
        .tuples()
        .all()
    )
    promoted = audit.last_promotions(session, tenant)
    production = {row.name: _in_production(row, promoted) for row in session.execute(_in_stage(tenant))}
    return [ModelRow(name, production.get(name), waiting.get(name, 0)) for name in names]


def find_model(session: Session, tenant: str, name: str) -> ModelKey:
    """A tenant's model.

    Raises:
        MlflowException: 404, there is none by that name.
    """
    query = sa.select(_models.c.creation_time).where(
        _models.c.workspace == tenant, _models.c.name == name, _is_model(_models)
    )
    found = session.execute(query).first()
    if found is None:
        raise missing(f"There is no model {name} in tenant {tenant}.")
    return ModelKey(tenant, name, found.creation_time or 0)


def _is_model(table: sa.Table) -> sa.ColumnElement[bool]:
    """Condition: what the row is about is no prompt, which MLflow keeps in the same tables."""
    prompt = sa.exists().where(
        _model_tags.c.workspace == table.c.workspace,
        _model_tags.c.name == table.c.name,
        _model_tags.c.key == IS_PROMPT_TAG_KEY,
        _model_tags.c.value == "true",
    )
    return ~prompt


def _in_stage(tenant: str) -> sa.Select[Any]:
    """Name, version and semantic version of what a tenant has in production."""
    number = sa.and_(
        _version_tags.c.workspace == _versions.c.workspace,
        _version_tags.c.name == _versions.c.name,
        _version_tags.c.version == _versions.c.version,
        _version_tags.c.key == semver.TAG,
    )
    return (
        sa.select(_versions.c.name, _versions.c.version, _version_tags.c.value.label("semantic_version"))
        .outerjoin(_version_tags, number)
        .where(_versions.c.workspace == tenant, _versions.c.current_stage == rules.PRODUCTION)
    )


def _in_production(row: sa.Row[Any], promoted: dict[str, Transition]) -> InProduction:
    entry = promoted.get(row.name)
    # a promotion of another version means that this one is older than the trail
    known = entry is not None and entry.version == row.version
    return InProduction(row.version, row.semantic_version, entry if known else None)
