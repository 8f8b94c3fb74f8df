"""Removing a tenant from the registry: its models, versions, files and roles, and its name for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
    SqlWebhook,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.workspace_context import ServerWorkspaceContext

from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.database.schema import versions as records_table
from mlflow_plugins.errors import bad_input, conflict
from mlflow_plugins.lifecycle import removals, rules, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.notifications import outbox
from mlflow_plugins.registration import records
from mlflow_plugins.users import permissions

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.removals import Removal
    from mlflow_plugins.lifecycle.stages import Cause
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

_SHOWN: Final = 5


@dataclass(frozen=True)
class Contents:
    """What the registry has of a tenant."""

    counts: dict[str, int]
    #: `model version N`, by name
    in_production: list[str]


class Tenants:
    """Tenants of one registry, as far as they end."""

    def __init__(self, store: LifecycleStore) -> None:
        self._store = store

    def contents(self, tenant: str) -> Contents:
        """What removing the tenant would take; lists its files."""
        with self._store.sessions() as session:
            counts = _rows(session, tenant)
            production = _in_production(session, tenant)
        return Contents({**counts, **_files(tenant)}, production)

    def removal(self, tenant: str) -> Removal | None:
        """The last step of the removal of a tenant of this name; None when none was ever removed."""
        with self._store.sessions() as session:
            return removals.last(session, tenant)

    def removals(self) -> list[Removal]:
        """The last step of every removed tenant, by name."""
        with self._store.sessions() as session:
            return removals.last_of_all(session)

    def has_traces(self, tenant: str) -> bool:
        """Whether versions or a trail carry this name that belong to no removed tenant."""
        with self._store.sessions() as session:
            return any(removals.traces(session, tenant).values())

    def begin(self, tenant: str, cause: Cause, *, force: bool) -> None:
        """Delete all models, with a row in the trail for each version; from here on the name is reserved.

        Raises:
            MlflowException: 409, a version is in production and `force` is off; 400, a forced removal
                without a reason.
        """
        if force and not cause.reason:
            raise bad_input(f"Say why tenant {tenant} is removed by force: give a reason.")
        with ServerWorkspaceContext(tenant), self._store.transaction() as session:
            models = _lock_models(session, tenant)
            production = _in_production(session, tenant)
            if production and not force:
                raise conflict(_refusal(tenant, production))
            before = removals.last(session, tenant)
            counts = _rows(session, tenant)
            for model in models:
                for version in stages.versions_of(session, model):
                    stages.record_deletion(session, model, version, cause)
            session.flush()
            for name in _names(session, tenant):
                SqlAlchemyStore.delete_registered_model(self._store, name)
            session.execute(sa.delete(SqlWebhook).where(SqlWebhook.workspace == tenant))
            outbox.forget(session, tenant)
            if counts["models"] or before is None or before.step != removals.STARTED:
                removals.record(
                    session,
                    tenant,
                    removals.STARTED,
                    actor=cause.actor,
                    reason=cause.reason,
                    counts=counts,
                )

    def finish(self, tenant: str, *, keep: bool) -> Removal:
        """Delete the tenant's files (`keep`: leave them), and the roles in it. Safe to repeat."""
        started = self.removal(tenant)
        if started is None:
            raise conflict(f"The removal of tenant {tenant} has not begun.")
        permissions.forget(tenant)
        files = _files(tenant)
        if not keep:
            self._delete_files(tenant)
        with self._store.transaction() as session:
            if not keep:
                _end_records(session, tenant)
            step = removals.KEPT if keep else removals.REMOVED
            counts = {**started.counts, **files}
            return removals.record(
                session, tenant, step, actor=started.who, reason=started.reason, counts=counts
            )

    def release(self, tenant: str, cause: Cause) -> Removal:
        """Let the name of a removed tenant be used again; who gets it begins with nothing.

        Raises:
            MlflowException: 409, there is something left of it here.
        """
        last = self.removal(tenant)
        if last is None or last.step not in {removals.REMOVED, removals.RELEASED}:
            state = "was not removed" if last is None else f"is in the state {last.step!r}"
            raise conflict(f"Tenant {tenant} {state}. Remove it first: `ai-hub tenants remove {tenant}`.")
        if last.step == removals.RELEASED:
            return last
        with self._store.transaction() as session:
            reason = cause.reason or last.reason
            return removals.record(
                session, tenant, removals.RELEASED, actor=cause.actor, reason=reason, counts={}
            )

    def require_free(self, tenant: str) -> None:
        """Make sure that a new tenant may have this name, and begins with nothing.

        Raises:
            MlflowException: 409, something of a former one is left.
        """
        last = self.removal(tenant)
        way_out = f"`ai-hub tenants remove {tenant}` deals with it, and then the name can be used again."
        if last is not None and last.reserves:
            why = f": {last.reason}" if last.reason else ""
            raise conflict(
                f"The name {tenant} is that of a tenant that {last.actor} has removed{why}. "
                f"{_LEFT[last.step]} {way_out}"
            )
        if self.has_traces(tenant):
            raise conflict(
                f"The name {tenant} is that of a tenant whose workspace was deleted without its files and "
                f"audit trail. {way_out}"
            )
        if last is not None:
            self._delete_files(tenant)  # what a registration under way may have written since

    def _delete_files(self, tenant: str) -> None:
        if (destination := current_destination()) is not None:
            destination.tenant_folder(tenant).delete()


_LEFT: Final = {
    removals.STARTED: "Its removal has not finished.",
    removals.REMOVED: "What TimescaleDB, Redis, API keys and exports have of it may still be there.",
    removals.KEPT: "Its files were to be kept.",
}


def _lock_models(session: Session, tenant: str) -> list[ModelKey]:
    """Make every other change to the tenant's models wait; see `stages.lock_model`. Prompts have no life."""
    touched = sa.update(SqlRegisteredModel).where(SqlRegisteredModel.workspace == tenant)
    touched = touched.values(last_updated_time=get_current_time_millis())
    session.execute(touched.execution_options(synchronize_session=False))
    prompts: Any = sa.select(SqlRegisteredModelTag.name).where(
        SqlRegisteredModelTag.workspace == tenant,
        SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
        SqlRegisteredModelTag.value == "true",
    )
    not_models = set(session.scalars(prompts))
    query: Any = sa.select(SqlRegisteredModel.name, SqlRegisteredModel.creation_time)
    rows = session.execute(query.where(SqlRegisteredModel.workspace == tenant)).all()
    return [ModelKey(tenant, name, at or 0) for name, at in sorted(rows) if name not in not_models]


def _names(session: Session, tenant: str) -> list[str]:
    query: Any = sa.select(SqlRegisteredModel.name).where(SqlRegisteredModel.workspace == tenant)
    return [str(name) for name in session.scalars(query.order_by(SqlRegisteredModel.name))]


def _in_production(session: Session, tenant: str) -> list[str]:
    query: Any = (
        sa.select(SqlModelVersion.name, SqlModelVersion.version)
        .where(SqlModelVersion.workspace == tenant, SqlModelVersion.current_stage == rules.PRODUCTION)
        .order_by(SqlModelVersion.name)
    )
    return [f"{name} version {version}" for name, version in session.execute(query)]


def _refusal(tenant: str, production: list[str]) -> str:
    more = f" and {len(production) - _SHOWN} more" if len(production) > _SHOWN else ""
    return (
        f"Tenant {tenant} stays: {', '.join(production[:_SHOWN])}{more} "
        f"{'is' if len(production) == 1 else 'are'} in Production. Archive what is in Production first, or "
        f"force it with a reason: `ai-hub tenants remove {tenant} --force --reason '…'`."
    )


def _rows(session: Session, tenant: str) -> dict[str, int]:
    traces = removals.traces(session, tenant)
    return {"models": len(_names(session, tenant)), **traces}


def _files(tenant: str) -> dict[str, int]:
    destination = current_destination()
    files = destination.tenant_folder(tenant).files() if destination else {}
    return {"files": len(files), "bytes": sum(file.size for file in files.values())}


def _end_records(session: Session, tenant: str) -> None:
    """No registration or deletion under way may go on, and no folder is anybody's any more."""
    mine = records_table.c.workspace == tenant
    session.execute(sa.delete(records_table).where(mine, records_table.c.version.is_(None)))
    session.execute(sa.update(records_table).where(mine).values(state=records.GONE))
