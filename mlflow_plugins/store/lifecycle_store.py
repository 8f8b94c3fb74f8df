"""`--registry-store-uri lifecycle+sqlite:///…` or `lifecycle+postgresql://…`: MLflow's registry with rules.

Every door (stage menu, aliases, REST, client, command line) ends in these methods, so the rules are here.
Prompts, which MLflow keeps in the same tables, are left exactly as they are.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import (
    DEFAULT_STAGES_FOR_GET_LATEST_VERSIONS,
    STAGE_DELETED_INTERNAL,
    get_canonical_stage,
)
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES, MLFLOW_WEBHOOK_CACHE_TTL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.entities import PagedList
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from mlflow_plugins.adoption import unadopted
from mlflow_plugins.artifacts.destination import check_model_name
from mlflow_plugins.database import JoiningSessionMaker, migrate
from mlflow_plugins.errors import bad_input, conflict, missing, unavailable
from mlflow_plugins.lifecycle import aliases, audit, rules, semver, stages
from mlflow_plugins.registration import records
from mlflow_plugins.store import tags as own_tags
from mlflow_plugins.store.deleting import Deletions
from mlflow_plugins.store.promoting import Promotions
from mlflow_plugins.store.registering import Registrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.entities.webhook import Webhook, WebhookEvent
    from sqlalchemy.orm import Session

    from mlflow_plugins.gates.gate import Assessment
    from mlflow_plugins.lifecycle.audit import ModelKey, Transition
    from mlflow_plugins.lifecycle.semver import SemanticVersion
    from mlflow_plugins.registration.imports import ExportedVersion

SCHEME_PREFIX: Final = "lifecycle+"


class LifecycleStore(WorkspaceAwareSqlAlchemyStore):
    """MLflow's SQL registry, with and without workspaces, in which every version has one strict life.

    Args:
        store_uri: address of the database, with or without `lifecycle+`.
        as_found: change nothing by opening it, and take versions that no rule knows (for their adoption).

    Raises:
        MlflowException: 409, plain MLflow registered some of the versions.
    """

    def __init__(self, store_uri: str, *, as_found: bool = False) -> None:
        if MLFLOW_ENABLE_WORKSPACES.get():
            # MLflow keeps webhooks by event, not by workspace: one tenant would hear of another's models
            MLFLOW_WEBHOOK_CACHE_TTL.set(0)
        super().__init__(store_uri.removeprefix(SCHEME_PREFIX))
        if not as_found:
            _begin(self.engine)
        self._sessions = JoiningSessionMaker(self.ManagedSessionMaker)
        self.ManagedSessionMaker = self._sessions
        self._deletions = Deletions(
            self, delete_version=super().delete_model_version, delete_model=super().delete_registered_model
        )
        self._registrations = Registrations(
            self, insert=super().create_model_version, clean_up=self._deletions.clean_up
        )
        self._promotions = Promotions(self)

    def _initialize_store_state(self) -> None:
        if not MLFLOW_ENABLE_WORKSPACES.get():
            # refuses to start without workspaces on a database that has models in several
            SqlAlchemyStore._initialize_store_state(self)  # noqa: SLF001 - skips the parent's variant of this method

    # ---- models

    def create_registered_model(
        self,
        name: str,
        tags: Sequence[Any] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Create a model; its name must be usable as a folder name."""
        if not _is_prompt_request(tags):
            check_model_name(name)
            own_tags.check_stage(tag.key for tag in tags or [])
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model that never had a version; afterwards the name is part of its artifacts' path."""
        if self.is_prompt(name):
            return super().rename_registered_model(name, new_name)
        check_model_name(new_name)
        with self.lock(name) as (session, model):
            if records.exist(session, model):
                raise conflict(
                    f"Model {name} has versions, whose artifacts and audit trail carry its name. "
                    f"Copy the version you need to a new model {new_name} instead."
                )
            return super().rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model all of whose versions are archived, and its artifacts."""
        if self.is_prompt(name):
            super().delete_registered_model(name)
        else:
            self._deletions.model(name)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag; a model cannot become a prompt."""
        if tag.key == IS_PROMPT_TAG_KEY:
            self._check_prompt_tag(name, tag.value)
        if tag.key == own_tags.STAGE and not self.is_prompt(name):
            own_tags.check_stage([tag.key])
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag; a prompt cannot become a model."""
        if key == IS_PROMPT_TAG_KEY:
            self._check_prompt_tag(name, None)
        super().delete_registered_model_tag(name, key)

    def _check_prompt_tag(self, name: str, value: str | None) -> None:
        if (value == "true") != self.is_prompt(name):
            raise conflict(f"{name} cannot change between prompt and model. Create another under a new name.")

    # ---- versions

    def create_model_version(  # noqa: PLR0917 - MLflow's signature
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Sequence[Any] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Register a version in Staging, with its artifacts in their own folder."""
        if self.is_prompt(name):
            if not _is_prompt_request(tags):
                raise bad_input(f"{name} is a prompt. Choose another name for the model.")
            return super().create_model_version(
                name, source, run_id, tags, run_link, description, local_model_path, model_id
            )
        check_model_name(name)
        given = {tag.key: tag.value for tag in tags or []}
        own_tags.check_stage(given)
        return self._registrations.register(
            name,
            source,
            run_id=run_id,
            model_id=model_id,
            given=given,
            run_link=run_link,
            description=description,
        )

    def delete_model_version(self, name: str, version: int | str) -> None:
        """Delete an archived version and exactly its folder."""
        if self.is_prompt(name):
            super().delete_model_version(name, version)
        else:
            self.remove_version(name, version)

    def transition_model_version_stage(
        self, name: str, version: int | str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a version; a promotion always archives the previous production version."""
        target = get_canonical_stage(stage)
        if archive_existing_versions and target not in DEFAULT_STAGES_FOR_GET_LATEST_VERSIONS:
            raise bad_input(
                "Model version transition cannot archive existing model versions because "
                f"'{target}' is not an Active stage. Set archive_existing_versions to false, or "
                f"move to {' or '.join(DEFAULT_STAGES_FOR_GET_LATEST_VERSIONS)}."
            )
        if self.is_prompt(name):
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)
        self.move_version(name, version, target, archive_others=archive_existing_versions)
        return self.get_model_version(name, version)

    def get_latest_versions(self, name: str, stages: Sequence[str] | None = None) -> list[ModelVersion]:
        """The newest version of each stage; a semantic version in `stages` stands for that version.

        MLflow takes what follows the name in `models:/NAME/v1.2.0` for a stage, so this makes it work.
        """
        numbers = [semver.parsed(stage) for stage in stages or []]
        named = [self._by_number(name, number) for number in numbers if number is not None]
        others = [stage for stage, number in zip(stages or [], numbers, strict=True) if number is None]
        return [*named, *(super().get_latest_versions(name, others) if others or not named else [])]

    def get_model_version_download_uri(self, name: str, version: int | str) -> str:
        """Where a version's files are; two columns, as whoever loads a model waits for the answer."""
        if str(version).isdecimal() and not rules.is_too_large(version):
            query: Any = sa.select(SqlModelVersion.storage_location, SqlModelVersion.source).where(
                SqlModelVersion.workspace == self._get_active_workspace(),
                SqlModelVersion.name == name,
                SqlModelVersion.version == int(version),
                SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
            )
            with self._sessions() as session:
                row = session.execute(query).first()
            if row is not None:
                return str(row.storage_location or row.source)
        return super().get_model_version_download_uri(name, version)  # which says what is wrong

    def set_model_version_tag(self, name: str, version: int | str, tag: Any) -> None:
        """Set a tag; what the registry wrote itself cannot be changed."""
        if self.is_prompt(name) or not (tag.key == own_tags.STAGE or own_tags.is_kept(tag.key)):
            super().set_model_version_tag(name, version, tag)
            return
        own_tags.check_stage([tag.key])
        with self.lock(name):  # of two who write at once, the second sees what the first wrote
            present = self.get_model_version(name, version).tags
            own_tags.check_fixed(present, version, tag.key, tag.value)
            super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: int | str, key: str) -> None:
        """Delete a tag; what the registry wrote itself stays."""
        if self.is_prompt(name) or not own_tags.is_kept(key):
            super().delete_model_version_tag(name, version, key)
            return
        with self.lock(name):
            own_tags.check_fixed(self.get_model_version(name, version).tags, version, key, None)
            super().delete_model_version_tag(name, version, key)

    def _by_number(self, name: str, number: SemanticVersion) -> ModelVersion:
        with self._sessions() as session:
            record = records.numbered(session, self.model_key(session, name), number)
        if record is None or record.version is None or record.state != records.REGISTERED:
            raise missing(f"Model {name} has no version {number}.")
        return self.get_model_version(name, record.version)

    def _get_sql_model_version(
        self, session: Session, name: str, version: int | str, eager: bool = False
    ) -> Any:
        """The row of a version; MLflow's answer to a number no column holds is a 500."""
        if rules.is_too_large(version):
            raise missing(f"Model Version (name={name}, version={version}) not found")
        return super()._get_sql_model_version(session, name, version, eager)

    # ---- aliases

    def set_registered_model_alias(self, name: str, alias: str, version: int | str) -> None:
        """Set an alias; `production`, `staging` and `archived` move the version to that stage."""
        target = rules.ALIAS_STAGES.get(alias.lower())
        if target is None or self.is_prompt(name):
            super().set_registered_model_alias(name, alias, version)
            return
        current = self.get_model_version(name, version)
        if alias.lower() in current.aliases:
            aliases.leave_unannounced()
            return
        key = aliases.Version(self.tenant(), name, int(version))
        with aliases.moving(key, target), aliases.announced_by_handler(alias):
            self.move_version(name, version, target)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias, unless it mirrors a stage.

        A request that names a version, as those of MLflow's pages do, takes the alias from that version only.
        """
        version = aliases.version_of_request()
        stage = rules.ALIAS_STAGES.get(alias.lower())
        if stage is None or self.is_prompt(name):
            if version is None or self._holder(name, alias) in {None, version}:
                super().delete_registered_model_alias(name, alias)
            else:
                aliases.leave_unannounced()
            return
        if version is None:
            is_removed = self._holder(name, alias) is None
        else:
            key = aliases.Version(self.tenant(), name, version)
            is_removed = aliases.comes_true(key, lambda: self._holder(name, alias) != version)
        if is_removed:
            aliases.leave_unannounced()
            return
        raise conflict(
            f"Alias {alias} shows which version of {name} entered {stage} last, "
            f"so it cannot be removed by itself. {_HOW_TO_MOVE[stage]}"
        )

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version an alias points at; `v1.2.0`, which cannot be an alias, is a semantic version."""
        number = semver.parsed(alias)
        if number is None:
            lower = alias.lower()
            # a stage's alias may be spelled in any case here as where it is set
            return super().get_model_version_by_alias(name, lower if lower in rules.ALIAS_STAGES else alias)
        return self._by_number(name, number)

    def _holder(self, name: str, alias: str) -> int | None:
        """The version that has an alias, which for a stage's alias may be spelled in any case."""
        present = self.get_registered_model(name).aliases
        lower = alias.lower()
        found = present.get(lower if lower in rules.ALIAS_STAGES and alias not in present else alias)
        return None if found is None else int(found)

    # ---- searches and webhooks

    def _get_search_registered_model_filter_query(
        self, session: Session, parsed_filters: Sequence[own_tags.Filter], dialect: str
    ) -> Any:
        by_stage, others = own_tags.split(parsed_filters)
        query: Any = super()._get_search_registered_model_filter_query(session, others, dialect)
        return query.where(*own_tags.of_models(by_stage))

    def _get_search_model_versions_filter_clauses(
        self, parsed_filters: Sequence[own_tags.Filter], dialect: str
    ) -> Any:
        by_stage, others = own_tags.split(parsed_filters)
        query: Any = super()._get_search_model_versions_filter_clauses(others, dialect)
        return query.where(*own_tags.of_versions(by_stage))

    def list_webhooks_by_event(
        self, event: WebhookEvent, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Webhook]:
        """Webhooks that hear of an event; none where the request has changed nothing."""
        # where MLflow keeps the answer, the next event would find none either
        if aliases.is_unannounced() and not MLFLOW_WEBHOOK_CACHE_TTL.get():
            return PagedList([], None)
        return super().list_webhooks_by_event(event, max_results, page_token)

    # ---- what MLflow's interface does not have

    def move_version(
        self,
        name: str,
        version: int | str,
        stage: str,
        *,
        archive_others: bool = False,
        reason: str | None = None,
        claim: str | None = None,
        expected: str | None = None,
    ) -> list[Transition]:
        """Move a version; returns its transition, then those of the versions it displaced.

        `expected` is the stage it must be in (default: any from which the rules let it move).
        """
        cause = stages.Cause.of_request({}, reason=reason, claim=claim)
        with audit.refusals(self.tenant(), name, version, stage, claim):
            if stage == rules.PRODUCTION:
                return self._promotions.promote(name, version, cause, archive_others=archive_others)
            with self.locked(name, version) as (session, model, row):
                if expected not in {None, row.current_stage}:
                    raise conflict(
                        f"Version {row.version} of model {name} stays as it is. It is in {row.current_stage} "
                        f"by now, no longer in {expected}. Look at it, then ask again."
                    )
                return stages.move(session, model, row, stage, archive_others=archive_others, cause=cause)

    def gates(
        self, name: str, version: int | str, *, reason: str | None = None, claim: str | None = None
    ) -> Assessment:
        """What promoting a version would meet now for the asking user; changes nothing.

        Args:
            name: the model.
            version: its version.
            reason: what the promotion would be given; default: the version's tag `promotion.reason`.
            claim: whom the caller says it acts for, as for `move_version`.
        """
        return self._promotions.assess(name, version, stages.Cause.of_request({}, reason=reason, claim=claim))

    def roll_back(
        self,
        name: str,
        version: int | str | None = None,
        *,
        reason: str | None = None,
        claim: str | None = None,
    ) -> list[Transition]:
        """Put an archived version (default: the last one that was in Production) back into Production."""
        if version is None:
            version = self._promotions.last_in_production(name)
        elif (stage := self.get_model_version(name, version).current_stage) != rules.ARCHIVED:
            raise conflict(f"Version {version} of {name} is in {stage}; only archived ones can come back.")
        return self.move_version(name, version, rules.PRODUCTION, reason=reason, claim=claim)

    def remove_version(
        self,
        name: str,
        version: int | str,
        *,
        force: bool = False,
        reason: str | None = None,
        claim: str | None = None,
    ) -> list[str]:
        """Delete a version that is archived (`force`: in any stage); returns the files deleted."""
        return self._deletions.version(name, version, force=force, reason=reason, claim=claim)

    def import_version(
        self,
        name: str,
        run_id: str,
        exported: ExportedVersion,
        *,
        semantic_version: str | None,
        reason: str | None = None,
        claim: str | None = None,
    ) -> ModelVersion:
        """Register what another registry, or another tenant, has exported; it enters in Staging.

        Args:
            name: the model.
            run_id: the run with the files in its folder `model`.
            exported: what they must be, and everything else about the version.
            semantic_version: its number; None for the next one.
            reason: why, for the audit trail.
            claim: whom the caller says it acts for.

        Raises:
            MlflowException: 400, the run's files are others; 409, the number is taken.
        """
        if self.is_prompt(name):
            raise bad_input(f"{name} is a prompt. Choose another name for the model.")
        return self._registrations.import_version(
            name, run_id, exported, semantic_version=semantic_version, reason=reason, claim=claim
        )

    def history(self, name: str, version: int | None = None, limit: int = 1000) -> list[Transition]:
        """Changes of stage of a model (or one version), newest first; also after it was deleted."""
        with self._sessions() as session:
            return audit.history(session, self.tenant(), name, version=version, limit=limit)

    def production_at(self, name: str, at_ms: int) -> Transition | None:
        """The promotion that put into Production what was there at `at_ms` (UTC milliseconds)."""
        with self._sessions() as session:
            return audit.production_at(session, self.tenant(), name, at_ms)

    def manifest_digest_of(self, workspace: str, name: str, semantic_version: str) -> str | None:
        """SHA-256 of the manifest of a registered version; None when there is none by that number."""
        with self._sessions() as session:
            return records.manifest_digest_of(session, workspace, name, semantic_version)

    def registered_folders(self, workspace: str, name: str | None = None) -> list[str]:
        """Models of a tenant that have registered versions, or the numbers of those of model `name`."""
        with self._sessions() as session:
            return records.registered_folders(session, workspace, name)

    # ---- sessions and rows, for what works on them

    def tenant(self) -> str:
        """The tenant of this request."""
        return str(self._get_active_workspace())

    def sessions(self) -> AbstractContextManager[Session]:
        """A session for reading, or the one of the transaction this thread is in."""
        return self._sessions()

    def transaction(self) -> AbstractContextManager[Session]:
        """Everything this thread does inside, by whichever method, commits together or not at all."""
        return self._sessions.transaction()

    @contextmanager
    def lock(self, name: str) -> Iterator[tuple[Session, ModelKey]]:
        """One transaction in which nobody else changes model `name`; MLflow's own methods join it.

        Raises:
            MlflowException: 404, there is no such model.
        """
        tenant = self.tenant()
        with self._sessions.transaction() as session:
            yield session, stages.lock_model(session, tenant, name)
            changes = aliases.noted(session)
        aliases.announce(self, name, changes)

    @contextmanager
    def locked(self, name: str, version: int | str) -> Iterator[tuple[Session, ModelKey, stages.VersionRow]]:
        """As `lock`, with one of the model's versions.

        Raises:
            MlflowException: 404, there is no such version.
        """
        with self.lock(name) as (session, model):
            yield session, model, self.version_row(session, name, version)

    def model_key(self, session: Session, name: str) -> ModelKey:
        """A model of this request's tenant.

        Raises:
            MlflowException: 404, there is none by that name.
        """
        model = self._get_registered_model(session, name)
        return audit.ModelKey(model.workspace, name, model.creation_time)

    def version_row(self, session: Session, name: str, version: int | str) -> stages.VersionRow:
        """A version's row.

        Raises:
            MlflowException: 404, there is none.
        """
        row: stages.VersionRow = self._get_sql_model_version(session, name, version)
        return row

    def is_prompt(self, name: str) -> bool:
        """Whether a registered model is a prompt."""
        with self._sessions() as session:
            tag = session.get(SqlRegisteredModelTag, (self._get_active_workspace(), IS_PROMPT_TAG_KEY, name))
            return tag is not None and str(tag.value) == "true"


_HOW_TO_MOVE: Final = {
    rules.PRODUCTION: "Promote another version, or move this one to Archived.",
    rules.STAGING: "Promote the version, or move it to Archived.",
    rules.ARCHIVED: "Restore the version to Staging, or delete it.",
}


def _begin(engine: sa.Engine) -> None:
    """Make sure that all versions are known to our rules."""
    if found := unadopted.find(engine):
        error = unadopted.refusal(found)
        if click.get_current_context(silent=True) is not None:
            raise SystemExit(error.message)  # `mlflow server` would print a traceback
        raise error
    migrate(engine)
    unadopted.switch_over(engine)


def _is_prompt_request(tags: Sequence[Any] | None) -> bool:
    """Whether something is created as a prompt, by its tags (the last one of a key counts)."""
    return {tag.key: tag.value for tag in tags or []}.get(IS_PROMPT_TAG_KEY, "").lower() == "true"


def registry_store() -> LifecycleStore:
    """The registry of this server.

    Raises:
        MlflowException: 503, the server runs MLflow's own.
    """
    # MLflow's handlers import its whole application, which is there when a request is
    from mlflow.server.handlers import _get_model_registry_store  # noqa: PLC0415

    store = _get_model_registry_store()
    if not isinstance(store, LifecycleStore):
        raise unavailable(
            "This server runs MLflow's own registry. "
            "Start it with --registry-store-uri lifecycle+sqlite:///… or lifecycle+postgresql://…"
        )
    return store


def opened_store() -> LifecycleStore | None:
    """The registry of this server; None until a request has opened it, or where it is MLflow's own.

    Opening it makes the tables of a new database, and two threads that do so at once leave half of them.
    """
    store = getattr(sys.modules.get("mlflow.server.handlers"), "_model_registry_store", None)
    return store if isinstance(store, LifecycleStore) else None
