"""What the lists of tenants and of models show, from a fixed number of queries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from mlflow_plugins.errors import missing
from mlflow_plugins.lifecycle import audit, comments, rules
from mlflow_plugins.lifecycle.audit import ModelKey, Transition
from mlflow_plugins.web.lifecycle import tables

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session


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
        sa.select(tables.models.c.workspace, sa.func.count())
        .where(tables.models.c.workspace.in_(names), tables.is_model(tables.models))
        .group_by(tables.models.c.workspace)
    )
    for tenant, number in session.execute(models):
        counts[tenant]["models"] = number
    versions = (
        sa.select(tables.versions.c.workspace, tables.versions.c.current_stage, sa.func.count())
        .where(tables.versions.c.workspace.in_(names), tables.is_model(tables.versions))
        .where(tables.versions.c.current_stage.in_((rules.STAGING, rules.PRODUCTION)))
        .group_by(tables.versions.c.workspace, tables.versions.c.current_stage)
    )
    for tenant, stage, number in session.execute(versions):
        counts[tenant]["in_production" if stage == rules.PRODUCTION else "candidates"] = number
    asked = Counter(tenant for tenant, _ in comments.open_requests(session, names))
    return [TenantRow(name, **counts[name], requests=asked[name]) for name in sorted(names)]


def models(session: Session, tenant: str) -> list[ModelRow]:
    """A tenant's models, by name."""
    names = session.scalars(
        sa.select(tables.models.c.name)
        .where(tables.models.c.workspace == tenant, tables.is_model(tables.models))
        .order_by(tables.models.c.name)
    ).all()
    candidates = (
        sa.select(tables.versions.c.name, sa.func.count().label("number"))
        .where(tables.versions.c.workspace == tenant, tables.versions.c.current_stage == rules.STAGING)
        .group_by(tables.versions.c.name)
    )
    waiting = {row.name: row.number for row in session.execute(candidates)}
    in_production = tables.select_versions(tenant).where(tables.versions.c.current_stage == rules.PRODUCTION)
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
    query = tables.select_versions(tenant).where(tables.versions.c.name == model)
    return [
        VersionName(
            row.version,
            f"{row.version} ({row.semantic_version})" if row.semantic_version else str(row.version),
            row.current_stage,
        )
        for row in session.execute(query.order_by(tables.versions.c.version.desc()))
    ]


def deleted_models(session: Session, tenant: str) -> list[Transition]:
    """How the newest of the models ended that a tenant has no more, the last one first."""
    present = sa.select(tables.models.c.name).where(tables.models.c.workspace == tenant)
    return audit.last_of_others(session, tenant, present, DELETED)


def find_model(session: Session, tenant: str, name: str) -> ModelKey:
    """A tenant's model.

    Raises:
        MlflowException: 404, there is none by that name.
    """
    query = sa.select(tables.models.c.creation_time).where(
        tables.models.c.workspace == tenant, tables.models.c.name == name, tables.is_model(tables.models)
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
