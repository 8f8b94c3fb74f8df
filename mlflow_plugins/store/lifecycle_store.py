"""`--registry-store-uri lifecycle+sqlite:///…` or `lifecycle+postgresql://…`: MLflow's registry with rules.

Every door (stage menu, aliases, REST, client, command line) ends in these methods, so the rules are here.
Prompts, which MLflow keeps in the same tables, are left exactly as they are.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities.model_registry.model_version_stages import (
    DEFAULT_STAGES_FOR_GET_LATEST_VERSIONS,
    get_canonical_stage,
)
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.errors import bad_input, conflict, missing, unavailable
from mlflow_plugins.gates import evaluation
from mlflow_plugins.gates.evaluation import GateRefusalError
from mlflow_plugins.lifecycle import aliases, audit, rules, search, semver, stages
from mlflow_plugins.notifications import outbox, receivers
from mlflow_plugins.registration import imports, model_metadata, publishing, records
from mlflow_plugins.store.registering import RegisteringStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlflow.entities.model_registry import ModelVersion
    from sqlalchemy.orm import Session

    from mlflow_plugins.gates.assessment import Assessment
    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.lifecycle.semver import SemanticVersion


#: How often a promotion asks its gates anew because others were faster.
_ATTEMPTS: Final = 5
_log: Final = logging.getLogger(__name__)
#: What a promotion is refused with, where it is not the request that is wrong.
_REFUSED: Final = (HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN)
_FIXED_TAGS: Final = {
    semver.TAG: "it names the folder of the version's artifacts",
    manifest.TAG: "it fixes the version's files",
    publishing.ORIGIN_TAG: "it says where the version came from",
    imports.TAG: "it says where the version came from",
    model_metadata.CARD_TAG: "it says what was registered",
    model_metadata.METADATA_TAG: "it says what was registered",
    model_metadata.METRICS_TAG: "it says what was registered",
}


class LifecycleStore(RegisteringStore):
    """MLflow's SQL registry in which every version has one strict life (see `rules`)."""

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
        if self._is_prompt(name):
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)
        self.move_version(name, version, target, archive_others=archive_existing_versions)
        return self.get_model_version(name, version)

    def set_registered_model_alias(self, name: str, alias: str, version: int | str) -> None:
        """Set an alias; `production`, `staging` and `archived` move the version to that stage."""
        target = rules.ALIAS_STAGES.get(alias.lower())
        if target is None or self._is_prompt(name):
            super().set_registered_model_alias(name, alias, version)
            return
        current = self.get_model_version(name, version)
        if alias.lower() in current.aliases:
            aliases.leave_unannounced()
            return
        with (
            aliases.moving(self._version_key(name, version), target),
            aliases.announced_by_handler(alias),
        ):
            self.move_version(name, version, target)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias, unless it mirrors a stage.

        A request that names a version, as those of MLflow's pages do, takes the alias from that version only.
        """
        version = aliases.version_of_request()
        stage = rules.ALIAS_STAGES.get(alias.lower())
        if stage is None or self._is_prompt(name):
            if version is None or self._holder(name, alias) in {None, version}:
                super().delete_registered_model_alias(name, alias)
            else:
                aliases.leave_unannounced()
            return
        if version is None:
            is_removed = self._holder(name, alias) is None
        else:
            key = self._version_key(name, version)
            is_removed = aliases.comes_true(key, lambda: self._holder(name, alias) != version)
        if is_removed:
            aliases.leave_unannounced()
            return
        raise conflict(
            f"Alias {alias} shows which version of {name} entered {stage} last, "
            f"so it cannot be removed by itself. {_HOW_TO_MOVE[stage]}"
        )

    def get_latest_versions(self, name: str, stages: Sequence[str] | None = None) -> list[ModelVersion]:
        """The newest version of each stage; a semantic version in `stages` stands for that version.

        MLflow takes what follows the name in `models:/NAME/v1.2.0` for a stage, so this makes it work.
        """
        numbers = [semver.parsed(stage) for stage in stages or []]
        named = [self._by_number(name, number) for number in numbers if number is not None]
        others = [stage for stage, number in zip(stages or [], numbers, strict=True) if number is None]
        return [*named, *(super().get_latest_versions(name, others) if others or not named else [])]

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version an alias points at; `v1.2.0`, which cannot be an alias, is a semantic version."""
        number = semver.parsed(alias)
        if number is None:
            lower = alias.lower()
            # a stage's alias may be spelled in any case here as where it is set
            return super().get_model_version_by_alias(name, lower if lower in rules.ALIAS_STAGES else alias)
        return self._by_number(name, number)

    def set_model_version_tag(self, name: str, version: int | str, tag: Any) -> None:
        """Set a tag; what the registry wrote itself cannot be changed."""
        if tag.key in {search.STAGE_TAG, *_FIXED_TAGS} and not self._is_prompt(name):
            search.check_tags([tag.key])
            self._check_fixed_tag(name, version, tag.key, tag.value)
        super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: int | str, key: str) -> None:
        """Delete a tag; what the registry wrote itself stays."""
        if key in _FIXED_TAGS and not self._is_prompt(name):
            self._check_fixed_tag(name, version, key, None)
        super().delete_model_version_tag(name, version, key)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag; a model cannot become a prompt."""
        if tag.key == IS_PROMPT_TAG_KEY:
            self._check_prompt_tag(name, tag.value)
        if tag.key == search.STAGE_TAG and not self._is_prompt(name):
            search.check_tags([tag.key])
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag; a prompt cannot become a model."""
        if key == IS_PROMPT_TAG_KEY:
            self._check_prompt_tag(name, None)
        super().delete_registered_model_tag(name, key)

    def _get_search_registered_model_filter_query(
        self, session: Session, parsed_filters: Sequence[search.Filter], dialect: str
    ) -> Any:
        by_stage, others = search.split(parsed_filters)
        query: Any = super()._get_search_registered_model_filter_query(session, others, dialect)
        return query.where(*search.of_models(by_stage))

    def _get_search_model_versions_filter_clauses(
        self, parsed_filters: Sequence[search.Filter], dialect: str
    ) -> Any:
        by_stage, others = search.split(parsed_filters)
        query: Any = super()._get_search_model_versions_filter_clauses(others, dialect)
        return query.where(*search.of_versions(by_stage))

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
        with audit.refusals(self._get_active_workspace(), name, version, stage, claim):
            if stage == rules.PRODUCTION:
                with self._told_refusals(name, version, cause):
                    return self._promote(name, version, cause, archive_others=archive_others)
            with self._locked(name) as (session, model):
                row = self._get_sql_model_version(session, name, version)
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
        cause = stages.Cause.of_request({}, reason=reason, claim=claim)
        with self._sessions() as session:
            row = self._get_sql_model_version(session, name, version)
            model = self.model_key(session, name)
            present = evaluation.read_context(session, model, row, cause)
            refusal = stages.refusal(session, model, row, rules.PRODUCTION)
        if refusal is not None:
            return evaluation.forbidden(present, refusal)
        assessment, _ = evaluation.assess(self, present)
        return assessment

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
            version = self._last_production_version(name)
        elif (stage := self.get_model_version(name, version).current_stage) != rules.ARCHIVED:
            raise conflict(f"Version {version} of {name} is in {stage}; only archived ones can come back.")
        return self.move_version(name, version, rules.PRODUCTION, reason=reason, claim=claim)

    def history(self, name: str, version: int | None = None, limit: int = 1000) -> list[Transition]:
        """Changes of stage of a model (or one version), newest first; also after it was deleted."""
        with self._sessions() as session:
            return audit.history(session, self._get_active_workspace(), name, version=version, limit=limit)

    def production_at(self, name: str, at_ms: int) -> Transition | None:
        """The promotion that put into Production what was there at `at_ms` (UTC milliseconds)."""
        with self._sessions() as session:
            return audit.production_at(session, self._get_active_workspace(), name, at_ms)

    def tenant(self) -> str:
        """The tenant of this request."""
        return str(self._get_active_workspace())

    def model_key(self, session: Session, name: str) -> audit.ModelKey:
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

    @contextmanager
    def locked(
        self, name: str, version: int | str
    ) -> Iterator[tuple[Session, audit.ModelKey, stages.VersionRow]]:
        """One transaction in which nobody else changes the model, with one of its versions.

        Raises:
            MlflowException: 404, there is no such version.
        """
        with self._locked(name) as (session, model):
            yield session, model, self.version_row(session, name, version)

    # ---- helpers

    def _last_production_version(self, name: str) -> int:
        with self._sessions() as session:
            model = self.model_key(session, name)
            archived = {row.version for row in stages.versions_of(session, model, rules.ARCHIVED)}
            for version in audit.last_in_production(session, model):
                if version in archived:
                    return version
        raise conflict(f"There is nothing to roll back to: no archived version of {name} was in Production.")

    def _by_number(self, name: str, number: SemanticVersion) -> ModelVersion:
        with self._sessions() as session:
            record = records.numbered(session, self.model_key(session, name), number)
        if record is None or record.version is None or record.state != records.REGISTERED:
            raise missing(f"Model {name} has no version {number}.")
        return self.get_model_version(name, record.version)

    def _holder(self, name: str, alias: str) -> int | None:
        """The version that has an alias, which for a stage's alias may be spelled in any case."""
        aliases = self.get_registered_model(name).aliases
        lower = alias.lower()
        found = aliases.get(lower if lower in rules.ALIAS_STAGES and alias not in aliases else alias)
        return None if found is None else int(found)

    def _version_key(self, name: str, version: int | str) -> aliases.Version:
        return aliases.Version(self._get_active_workspace(), name, int(version))

    def _promote(
        self, name: str, version: int | str, cause: stages.Cause, *, archive_others: bool
    ) -> list[Transition]:
        """Ask the gates before the lock, because they read files; under it, see that all still holds."""
        for _ in range(_ATTEMPTS):
            with self._sessions() as session:
                row = self._get_sql_model_version(session, name, version)
                model = self.model_key(session, name)
                stages.check_move(session, model, row, rules.PRODUCTION)
                judged = evaluation.read_context(session, model, row, cause)
            assessment, by_production = evaluation.assess(self, judged)
            if (refusal := assessment.refusal_text()) is not None:
                raise GateRefusalError(refusal, assessment.evidence())
            with self._locked(name) as (session, model):
                row = self._get_sql_model_version(session, name, version)
                present = evaluation.read_context(session, model, row, cause)
                if judged.still_holds(present, production_matters=by_production):
                    because = cause._replace(evidence=assessment.evidence())
                    return stages.move(
                        session, model, row, rules.PRODUCTION, archive_others=archive_others, cause=because
                    )
        raise conflict(
            f"Version {version} of model {name} stays as it is: while its gates were asked, somebody changed "
            f"what they compared it with, {_ATTEMPTS} times. Look at the model's history, then promote again."
        )

    @contextmanager
    def _told_refusals(self, name: str, version: int | str, cause: stages.Cause) -> Iterator[None]:
        """Tell whoever is to hear of a promotion that this block refuses."""
        try:
            yield
        except MlflowException as error:
            if error.get_http_status_code() in _REFUSED:
                self._tell_refusal(name, version, cause, error)
            raise

    def _tell_refusal(
        self, name: str, version: int | str, cause: stages.Cause, error: MlflowException
    ) -> None:
        workspace = self._get_active_workspace()
        if not outbox.is_heard(workspace, receivers.REFUSAL):
            return
        try:
            with self._sessions.transaction() as session:
                row = self._get_sql_model_version(session, name, version)
                if row.current_stage == rules.PRODUCTION:
                    return  # it is there already
                because = stages.with_tags(session, row, cause)
                told = receivers.Event(
                    kind=receivers.REFUSAL,
                    workspace=workspace,
                    model=name,
                    version=row.version,
                    semantic_version=stages.semantic_version(session, row),
                    actor=because.actor.name,
                    actor_source=because.actor.source,
                    reason=because.reason,
                    at_ms=get_current_time_millis(),
                    from_stage=row.current_stage,
                    message=str(error.message),
                    evidence=getattr(error, "evidence", {}),
                )
                outbox.add(session, told)
        except MlflowException:  # what is refused is said in any case
            _log.warning("Nobody is told that a promotion of %s was refused.", name, exc_info=True)

    def _check_fixed_tag(self, name: str, version: int | str, key: str, value: str | None) -> None:
        present = self.get_model_version(name, version).tags.get(key)
        if present == value:
            return
        if present is not None:
            raise conflict(
                f"Tag {key}={present} of version {version} cannot change, because {_FIXED_TAGS[key]}."
            )
        raise conflict(f"Tag {key} is set at registration and never later, because {_FIXED_TAGS[key]}.")

    def _check_prompt_tag(self, name: str, value: str | None) -> None:
        if (value == "true") != self._is_prompt(name):
            raise conflict(f"{name} cannot change between prompt and model. Create another under a new name.")


_HOW_TO_MOVE: Final = {
    rules.PRODUCTION: "Promote another version, or move this one to Archived.",
    rules.STAGING: "Promote the version, or move it to Archived.",
    rules.ARCHIVED: "Restore the version to Staging, or delete it.",
}


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
