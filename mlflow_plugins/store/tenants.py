"""Tenants of the registry, MLflow's workspaces: they end by the registry's rules, and begin empty.

Removing one takes its models, versions, files and roles. Its name stays reserved from the moment its removal
starts until everything that carried it is dealt with, outside this registry as well. Whoever gets the name
then sees nothing of the trail from before.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import flask
import sqlalchemy as sa
from mlflow.entities.workspace import WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import INVALID_STATE, ErrorCode
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
    SqlWebhook,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.workspace.dbmodels import SqlWorkspace
from mlflow.store.workspace.sqlalchemy_store import _WORKSPACE_ROOT_MODELS
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as MlflowWorkspaceStore
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.workspace_context import ServerWorkspaceContext

from mlflow_plugins.artifacts.destination import SERVE_ARTIFACTS, current_destination
from mlflow_plugins.database import removals as table
from mlflow_plugins.database import transitions, versions
from mlflow_plugins.database import versions as records_table
from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.notifications import outbox
from mlflow_plugins.registration import records
from mlflow_plugins.store.lifecycle_store import SCHEME_PREFIX, registry_store
from mlflow_plugins.users import permissions
from mlflow_plugins.users.permissions import Actor

if TYPE_CHECKING:
    from mlflow.entities.workspace import Workspace
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.stages import Cause
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


#: Its models are gone from the database, its files may not be.
STARTED: Final = "started"
#: Nothing of it is left here; what other databases have of it may be.
REMOVED: Final = "removed"
#: The same, but its files were to stay.
KEPT: Final = "kept"
#: Everything is dealt with: the name may be used again.
RELEASED: Final = "released"


@dataclass(frozen=True)
class Removal:
    """One step of a tenant's removal; `at_ms` is UTC milliseconds, `counts` what went (or stays) by kind."""

    workspace: str
    step: str
    actor: str
    actor_source: str
    reason: str | None
    counts: dict[str, int]
    at_ms: int

    @property
    def who(self) -> Actor:
        """Whose removal it is."""
        return Actor(self.actor, cast("Any", self.actor_source))

    @property
    def reserves(self) -> bool:
        """Whether nobody may use the tenant's name, if this is its last step."""
        return self.step != RELEASED

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "reserved": self.reserves}


def last_removal(session: Session, workspace: str) -> Removal | None:
    """The last step of the removal of a tenant of this name; None when none was ever removed."""
    query = sa.select(table).where(table.c.workspace == workspace).order_by(table.c.id.desc()).limit(1)
    row = session.execute(query).mappings().first()
    return _removal(row) if row else None


def last_removals(session: Session) -> list[Removal]:
    """The last step of every removed tenant, by name."""
    newest = sa.select(sa.func.max(table.c.id)).group_by(table.c.workspace)
    rows = session.execute(sa.select(table).where(table.c.id.in_(newest)).order_by(table.c.workspace))
    return [_removal(row) for row in rows.mappings()]


def record_removal(
    session: Session,
    workspace: str,
    step: str,
    *,
    actor: Actor,
    reason: str | None,
    counts: dict[str, int],
) -> Removal:
    """Append a step, and once it is committed one line to the audit log."""
    row: dict[str, Any] = {
        "workspace": workspace,
        "step": step,
        "actor": actor.name,
        "actor_source": actor.source,
        "reason": reason,
        "at_ms": get_current_time_millis(),
    }
    end = sa.select(sa.func.coalesce(sa.func.max(transitions.c.id), 0)).scalar_subquery()
    session.execute(
        sa.insert(table).values(**row, counts=json.dumps(counts, sort_keys=True), last_transition=end)
    )
    told = {key: value for key, value in row.items() if key != "at_ms"}
    line = audit.log_line("tenant_removal", row["at_ms"], {**told, "counts": counts})
    sa.event.listen(session, "after_commit", lambda _: audit.write_log(line), once=True)
    return Removal(**row, counts=counts)


def traces_of(session: Session, workspace: str) -> dict[str, int]:
    """Rows of the trail and of versions that carry this name, apart from those of removed tenants."""
    later = sa.and_(transitions.c.workspace == workspace, transitions.c.id > audit.end_of_former(workspace))
    present = sa.and_(versions.c.workspace == workspace, versions.c.state != "deleted")
    return {
        "trail": session.scalar(sa.select(sa.func.count()).select_from(transitions).where(later)) or 0,
        "versions": session.scalar(sa.select(sa.func.count()).select_from(versions).where(present)) or 0,
    }


def _removal(row: sa.RowMapping) -> Removal:
    values = {name: row[name] for name in Removal.__dataclass_fields__ if name != "counts"}
    return Removal(**values, counts=json.loads(row["counts"]))


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
            return last_removal(session, tenant)

    def removals(self) -> list[Removal]:
        """The last step of every removed tenant, by name."""
        with self._store.sessions() as session:
            return last_removals(session)

    def has_traces(self, tenant: str) -> bool:
        """Whether versions or a trail carry this name that belong to no removed tenant."""
        with self._store.sessions() as session:
            return any(traces_of(session, tenant).values())

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
            before = last_removal(session, tenant)
            counts = _rows(session, tenant)
            for model in models:
                for version in stages.versions_of(session, model):
                    stages.record_deletion(session, model, version, cause)
            session.flush()
            for name in _names(session, tenant):
                SqlAlchemyStore.delete_registered_model(self._store, name)
            session.execute(sa.delete(SqlWebhook).where(SqlWebhook.workspace == tenant))
            outbox.forget(session, tenant)
            if counts["models"] or before is None or before.step != STARTED:
                record_removal(
                    session,
                    tenant,
                    STARTED,
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
            step = KEPT if keep else REMOVED
            counts = {**started.counts, **files}
            return record_removal(
                session, tenant, step, actor=started.who, reason=started.reason, counts=counts
            )

    def release(self, tenant: str, cause: Cause) -> Removal:
        """Let the name of a removed tenant be used again; who gets it begins with nothing.

        Raises:
            MlflowException: 409, there is something left of it here.
        """
        last = self.removal(tenant)
        if last is None or last.step not in {REMOVED, RELEASED}:
            state = "was not removed" if last is None else f"is in the state {last.step!r}"
            raise conflict(f"Tenant {tenant} {state}. Remove it first: `ai-hub tenants remove {tenant}`.")
        if last.step == RELEASED:
            return last
        with self._store.transaction() as session:
            reason = cause.reason or last.reason
            return record_removal(session, tenant, RELEASED, actor=cause.actor, reason=reason, counts={})

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
    STARTED: "Its removal has not finished.",
    REMOVED: "What TimescaleDB, Redis, API keys and exports have of it may still be there.",
    KEPT: "Its files were to be kept.",
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
    traces = traces_of(session, tenant)
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


#: What `mlflow server` tells its workers about the registry.
REGISTRY_STORE: Final = "_MLFLOW_SERVER_REGISTRY_STORE"


def workspace_store(workspace_uri: str) -> MlflowWorkspaceStore:
    """MLflow's store of workspaces; ours in a server whose registry is ours (an entry point of MLflow)."""
    if os.environ.get(REGISTRY_STORE, "").startswith(SCHEME_PREFIX):
        return WorkspaceStore(workspace_uri)
    return MlflowWorkspaceStore(workspace_uri)


class WorkspaceStore(MlflowWorkspaceStore):
    """Creates and deletes workspaces; everything else is MLflow's."""

    def create_workspace(self, workspace: Workspace) -> Workspace:
        """Create a workspace, unless something of a former one of this name is left."""
        _check_artifact_root(workspace)
        if not self.exists(workspace.name):
            Tenants(registry_store()).require_free(workspace.name)
        return super().create_workspace(workspace)

    def update_workspace(self, workspace: Workspace) -> Workspace:
        """Change a workspace's settings."""
        _check_artifact_root(workspace)
        return super().update_workspace(workspace)

    def delete_workspace(
        self, workspace_name: str, mode: WorkspaceDeletionMode = WorkspaceDeletionMode.RESTRICT
    ) -> None:
        """Delete a workspace with all the registry has of it; killed midway, the same call goes on.

        A request may say `force=true` and `reason=…` (needed while something is in production), and
        `keep=true`, which leaves the files and reserves the name for good.

        Raises:
            MlflowException: 409, it is not empty (RESTRICT), something is in production (CASCADE), or it is
                SET_DEFAULT; 404, there is none.
        """
        arguments = flask.request.args if flask.has_request_context() else {}
        force, keep = (arguments.get(name, "").lower() == "true" for name in ("force", "keep"))
        cause = stages.Cause.of_request(
            {"with_tenant": True, **({"forced": True} if force else {})}, reason=arguments.get("reason")
        )
        with audit.refused_removals(workspace_name):
            self._check_mode(workspace_name, mode)
            tenants = Tenants(registry_store())
            if self.exists(workspace_name):
                tenants.begin(workspace_name, cause, force=force)
                self._delete(workspace_name)
            else:
                last = tenants.removal(workspace_name)
                unfinished = last is not None and last.step in {STARTED, KEPT}
                if not unfinished:
                    if not tenants.has_traces(workspace_name):
                        raise missing(f"Workspace '{workspace_name}' not found")
                    tenants.begin(workspace_name, cause, force=force)
            tenants.finish(workspace_name, keep=keep)

    def contents(self, workspace_name: str) -> dict[str, int]:
        """Rows of each of MLflow's tables with resources of the workspace; those without any are left out."""
        counts = {}
        with self.ManagedSessionMaker() as session:
            kind: Any
            for kind in _WORKSPACE_ROOT_MODELS:
                query = sa.select(sa.func.count()).select_from(kind).where(kind.workspace == workspace_name)
                if count := session.scalar(query):
                    counts[str(kind.__tablename__)] = int(count)
        return counts

    def exists(self, workspace_name: str) -> bool:
        """Whether there is a workspace of this name."""
        with self.ManagedSessionMaker() as session:
            return session.get(SqlWorkspace, workspace_name) is not None

    def _delete(self, name: str) -> None:
        """Delete a workspace with what MLflow has of it."""
        try:
            super().delete_workspace(name, WorkspaceDeletionMode.CASCADE)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(INVALID_STATE):
                raise
            raise conflict(error.message) from error  # not a 500, which clients would repeat for a minute

    def _check_mode(self, name: str, mode: WorkspaceDeletionMode) -> None:
        if mode == WorkspaceDeletionMode.SET_DEFAULT:
            raise conflict(
                f"Workspace '{name}' stays: its models cannot move to 'default'. Their files, manifests and "
                "audit trail carry the tenant's name, so there they would neither load nor return. Register "
                "the versions you need in another tenant from their files, then delete this one with its "
                f"contents: mode CASCADE, or `ai-hub tenants remove {name} --reason '…'`."
            )
        if mode == WorkspaceDeletionMode.RESTRICT and (counts := self.contents(name)):
            what = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in counts.items())
            raise conflict(
                f"Workspace '{name}' stays: it is not empty ({what}). Delete these first, or delete it with "
                f"its contents: mode CASCADE, or `ai-hub tenants remove {name} --reason '…'`, which shows "
                "first what would go."
            )


def _check_artifact_root(workspace: Workspace) -> None:
    if workspace.default_artifact_root and os.environ.get(SERVE_ARTIFACTS) == "true":
        raise bad_input(
            "Leave the default artifact root empty: this server keeps the files of every tenant itself, each "
            "in a folder of its own, and registers models from there only."
        )
