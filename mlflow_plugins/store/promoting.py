"""Promotions: what gates judge them by, asking them, the move, and who hears of a refusal.

The database's rows are read before the gates are asked, and again under the model's lock. Of a version its
folder counts, and what its run has recorded since.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_CONFLICT
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.artifacts.manifest import ManifestDigest
from mlflow_plugins.errors import conflict
from mlflow_plugins.gates import comparison, policy
from mlflow_plugins.gates.gate import Assessment, Candidate, Gate, GateResult, Verdict, VersionInfo, refused
from mlflow_plugins.gates.policy import PolicyError
from mlflow_plugins.lifecycle import audit, discussions, rules, semver, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.lineage_events import LineageDataset, is_on, lineage_run, model_version
from mlflow_plugins.notifications import outbox
from mlflow_plugins.registration import publishing, records
from mlflow_plugins.registration.model_metadata import (
    METRICS_TAG,
    describe,
    finite,
    given_metrics,
    interface,
    logged_model,
    read_mlmodel,
    run_facts,
)
from mlflow_plugins.registration.publishing import RUN_USER_TAG
from mlflow_plugins.users.permissions import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.store.model_registry.abstract_store import AbstractStore
    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.folders import Folder
    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.lifecycle.stages import Cause, VersionRow
    from mlflow_plugins.lineage_events import LineageRun
    from mlflow_plugins.registration.records import Record
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegisteredVersion:
    """Where a version came from, and where its files are: nowhere for one older than this registry."""

    version: int
    semantic_version: str | None
    source: str
    run_id: str | None
    location: str | None
    digest: ManifestDigest | None
    #: the tag `ai_hub.metrics`: what the caller of the registration measured
    given_metrics: str | None


@dataclass(frozen=True)
class PromotionContext:
    """A promotion that somebody asks for: the rows of the database that the gates' verdicts depend on."""

    model: ModelKey
    candidate: RegisteredVersion
    stage: str
    production: RegisteredVersion | None
    actor: Actor
    reason: str | None
    registered_by: str | None
    staged_at_ms: int | None
    #: the tag with the candidate's comparison with production
    comparison: str | None = None

    @property
    def rollback(self) -> bool:
        """Whether the version is to come back from the archive."""
        return self.stage == rules.ARCHIVED

    def still_holds(self, present: PromotionContext, *, production_matters: bool) -> bool:
        """Whether verdicts about this state are true of the `present` one as well."""
        if not production_matters:
            present = replace(present, production=self.production, comparison=self.comparison)
        return self == present


def read_context(session: Session, model: ModelKey, version: VersionRow, cause: Cause) -> PromotionContext:
    """Read it; tags that the transition will use up stay."""
    inside = stages.versions_of(session, model, rules.PRODUCTION)[-1:]
    compared = comparison.record_tag(inside[0].version) if inside else comparison.PREFIX
    rows = [version, *inside]
    found = records.find_all(session, model, [row.version for row in rows])
    tags = stages.tags_of(session, rows, *stages.CAUSE_TAGS, semver.TAG, METRICS_TAG, compared)
    candidate, *production = (_registered(row, found.get(row.version), tags[row.version]) for row in rows)
    cause = stages.with_tags(tags[version.version], cause)
    # where nobody else says why, the request does that the promotion answers
    if cause.reason is None and (request := discussions.open_request(session, model, version.version)):
        cause = cause._replace(reason=f"{request.text} (requested by {request.actor})")
    return PromotionContext(
        model=model,
        candidate=candidate,
        stage=version.current_stage,
        production=production[0] if production else None,
        actor=cause.actor,
        reason=cause.reason,
        registered_by=version.user_id,
        staged_at_ms=audit.entered_at(session, model, version.version, rules.STAGING),
        comparison=tags[version.version].get(compared),
    )


def registered_version(session: Session, model: ModelKey, version: VersionRow) -> RegisteredVersion:
    """What the database says about a version itself."""
    tags = stages.tags(session, version, semver.TAG, METRICS_TAG)
    return _registered(version, records.find(session, model, version.version), tags)


def _registered(version: VersionRow, record: Record | None, tags: Mapping[str, str]) -> RegisteredVersion:
    return RegisteredVersion(
        version=version.version,
        semantic_version=tags.get(semver.TAG),
        source=version.source,
        run_id=version.run_id,
        location=record.location if record else None,
        digest=record.digest if record else None,
        given_metrics=tags.get(METRICS_TAG),
    )


def version_info(store: AbstractStore, model: ModelKey, version: RegisteredVersion) -> VersionInfo:
    """What gates see of `version`, read when they ask."""

    def metrics_of(recorded: Mapping[str, float | None]) -> dict[str, float | None]:
        return present_metrics(recorded, version.given_metrics, version.source, version.run_id)

    location = _folder_of(model, version)
    if location is not None:
        folder, digest = location[0], location[1].manifest_sha256
        return VersionInfo(
            version.version,
            version.semantic_version,
            lambda: metrics_of(verified_document(folder, digest, manifest.METRICS)),
            lambda: verified_document(folder, digest, manifest.METADATA),
            version.run_id,
        )
    return VersionInfo(
        version.version,
        version.semantic_version,
        lambda: metrics_of({}),
        lambda: _described(store, model, version),
        version.run_id,
    )


def present_metrics(
    recorded: Mapping[str, float | None],
    given: str | None,
    source: str,
    run_id: str | None,
    client: MlflowClient | None = None,
) -> dict[str, float | None]:
    """What a version's metrics are by now.

    What the caller of the registration gave counts before all. Those of its logged model are the version's
    whenever they were logged, as MLflow's autolog goes on while it registers. Of its run, which may belong
    to many, only what the version's folder lacks counts.

    Args:
        recorded: `metrics.json` of the version's folder.
        given: the version's tag `ai_hub.metrics`.
        source: where the version was registered from.
        run_id: its run.
        client: of the tracking server; default: this process's own.
    """
    run = run_facts(run_id, logged_model(source), client)
    by_caller = given_metrics({METRICS_TAG: given} if given else {})
    return {**finite(run.metrics), **recorded, **finite(run.own_metrics), **by_caller}


def verify_version(
    model: ModelKey, version: RegisteredVersion, *, rehash: bool = False
) -> dict[str, Any] | None:
    """Check the folder (see `manifest.verify`); None for a version without a manifest."""
    location = _folder_of(model, version)
    return manifest.verify(*location, rehash=rehash) if location else None


def _folder_of(model: ModelKey, version: RegisteredVersion) -> tuple[Folder, ManifestDigest] | None:
    """The version's folder and what it must hold; None for one without a manifest."""
    destination = current_destination()
    if destination is None or version.location is None or version.digest is None:
        return None
    return destination.folder(version.location, model.workspace), version.digest


def verified_document(folder: Folder, manifest_sha256: str, name: str) -> dict[str, Any]:
    """One of our JSON files, checked on the way, because not every policy checks the whole folder."""
    listed = manifest.read(folder, manifest_sha256)
    path = manifest.place(listed, name)
    content = b"".join(folder.read(path))
    if hashlib.sha256(content).hexdigest() != listed[path]["sha256"]:
        raise manifest.tampered(folder, path, "was changed")
    return dict(json.loads(content))


def _described(store: AbstractStore, model: ModelKey, version: RegisteredVersion) -> dict[str, Any]:
    """What would be in `metadata.json`, from where the version was registered from."""
    origin = publishing.resolve_source(store, model.workspace, version.source, version.run_id, None)
    known = run_facts(origin.run_id, origin.model_id)
    mlmodel = {}
    if (destination := current_destination()) is not None:
        folder = destination.folder(origin.location, model.workspace)
        mlmodel = read_mlmodel(folder, folder.files())
    tags = store.get_model_version(model.name, version.version).tags
    return {
        **describe(mlmodel, known),
        "feature_service": interface(mlmodel, tags, known).feature_service,
        "author": known.tags.get(RUN_USER_TAG),
    }


def assess(store: AbstractStore, context: PromotionContext) -> tuple[Assessment, bool]:
    """Ask every gate, also after one refused, without holding any lock.

    Returns:
        What they say, and whether it depends on which version is in Production.
    """
    try:
        in_force = policy.current()
    except PolicyError as error:
        return forbidden(context, _closed(error)), False
    candidate = _candidate(store, context)
    chosen = in_force.gates(context.model.workspace, context.model.name)
    asked = [gate for gate in chosen if gate.on_rollback or not context.rollback]
    assessment = Assessment(
        **_heading(context),
        refusal=None,
        results=tuple(_ask(gate, candidate) for gate in asked),
        skipped=tuple(gate.name for gate in chosen if gate not in asked),
        policy=in_force.origin(),
    )
    return assessment, candidate.compared_with_production


def forbidden(context: PromotionContext, refusal: str) -> Assessment:
    """The assessment of a move that no gate is asked about, because `refusal` stands before them."""
    return Assessment(**_heading(context), refusal=refusal, results=(), skipped=(), policy={})


def _closed(error: PolicyError) -> str:
    return (
        "Nothing can be promoted while the promotion policy is broken. "
        f"{error} Mend it; `ai-hub policy check` tells whether it is right."
    )


def _heading(context: PromotionContext) -> dict[str, Any]:
    return {
        "model": context.model.name,
        "version": context.candidate.version,
        "semantic_version": context.candidate.semantic_version,
        "stage": context.stage,
        "rollback": context.rollback,
        "displaces": context.production.version if context.production else None,
    }


def _candidate(store: AbstractStore, context: PromotionContext) -> Candidate:
    model, production = context.model, context.production
    return Candidate(
        tenant=model.workspace,
        model=model.name,
        info=version_info(store, model, context.candidate),
        rollback=context.rollback,
        actor=context.actor,
        reason=context.reason,
        registered_by=context.registered_by,
        staged_at_ms=context.staged_at_ms,
        now_ms=get_current_time_millis(),
        verify=partial(verify_version, model, context.candidate),
        find_production=lambda: version_info(store, model, production) if production else None,
        comparison=context.comparison,
    )


def _ask(gate: Gate, candidate: Candidate) -> GateResult:
    try:
        verdict = gate.check(candidate)
    except MlflowException as error:
        verdict = Verdict(passed=False, text=str(error.message))
    except Exception as error:  # noqa: BLE001 - a gate may be anybody's, and what is not known to be right does not pass
        _log.exception("Gate %s broke", gate.name)
        verdict = refused(
            f"The gate itself is defective ({type(error).__name__}: {error}).",
            "Its traceback is in the server's log; the policy can turn it off meanwhile.",
        )
    return GateResult(gate.name, verdict.passed, verdict.text, verdict.evidence)


class GateRefusalError(MlflowException):
    """Gates refuse a promotion (HTTP 409); `evidence` is what they saw."""

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message, RESOURCE_CONFLICT)
        self.evidence = evidence


#: How often a promotion asks its gates anew because others were faster.
_ATTEMPTS: Final = 5
#: What a promotion is refused with, where it is not the request that is wrong.
_REFUSED: Final = (HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN)


class Promotions:
    """Promotes versions of one registry."""

    def __init__(self, store: LifecycleStore) -> None:
        self._store = store

    def promote(
        self, name: str, version: int | str, cause: stages.Cause, *, archive_others: bool
    ) -> list[Transition]:
        """Move a version into Production; see `LifecycleStore.move_version`.

        The gates are asked before the lock, because they read files; under it, all must still hold.
        """
        with self._told_refusals(name, version, cause), self._lineage(name, version) as lineage:
            for _ in range(_ATTEMPTS):
                with self._store.sessions() as session:
                    row = self._store.version_row(session, name, version)
                    model = self._store.model_key(session, name)
                    stages.check_move(session, model, row, rules.PRODUCTION)
                    judged = read_context(session, model, row, cause)
                assessment, by_production = assess(self._store, judged)
                if (refusal := assessment.refusal_text()) is not None:
                    raise GateRefusalError(refusal, assessment.evidence())
                with self._store.locked(name, version) as (session, model, row):
                    present = read_context(session, model, row, cause)
                    if judged.still_holds(present, production_matters=by_production):
                        because = stages.Cause(present.actor, present.reason, assessment.evidence())
                        semantic = judged.candidate.semantic_version
                        lineage.outputs = [LineageDataset(f"models/{name}/production", semantic)]
                        return stages.move(
                            session,
                            model,
                            row,
                            rules.PRODUCTION,
                            archive_others=archive_others,
                            cause=because,
                        )
            raise conflict(
                f"Version {version} of model {name} stays as it is: while its gates were asked, somebody "
                f"changed what they compared it with, {_ATTEMPTS} times. Look at the model's history, then "
                "promote again."
            )

    @contextmanager
    def _lineage(self, name: str, version: int | str) -> Iterator[LineageRun]:
        """Tell a catalogue of lineage of the block's promotion; of a version that is nowhere, nothing."""
        inputs = []
        if is_on():
            with self._store.sessions() as session:
                row = self._store.version_row(session, name, version)
                inputs = [model_version(name, row.version, stages.semantic_version(session, row))]
        with lineage_run(self._store.tenant(), f"promote/{name}") as lineage:
            lineage.inputs = inputs
            yield lineage

    def assess(self, name: str, version: int | str, cause: stages.Cause) -> Assessment:
        """What promoting a version would meet now; changes nothing."""
        with self._store.sessions() as session:
            row = self._store.version_row(session, name, version)
            model = self._store.model_key(session, name)
            present = read_context(session, model, row, cause)
            refusal = stages.refusal(session, model, row, rules.PRODUCTION)
        if refusal is not None:
            return forbidden(present, refusal)
        assessment, _ = assess(self._store, present)
        return assessment

    def last_in_production(self, name: str) -> int:
        """The archived version that was in Production last.

        Raises:
            MlflowException: 409, there is none.
        """
        with self._store.sessions() as session:
            model = self._store.model_key(session, name)
            archived = {row.version for row in stages.versions_of(session, model, rules.ARCHIVED)}
            for version in audit.last_in_production(session, model):
                if version in archived:
                    return version
        raise conflict(f"There is nothing to roll back to: no archived version of {name} was in Production.")

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
        workspace = self._store.tenant()
        if not outbox.is_heard(workspace, outbox.REFUSAL):
            return
        try:
            with self._store.transaction() as session:
                row = self._store.version_row(session, name, version)
                if row.current_stage == rules.PRODUCTION:
                    return  # it is there already
                because = stages.with_tags(stages.tags(session, row, *stages.CAUSE_TAGS), cause)
                event = outbox.Event(
                    kind=outbox.REFUSAL,
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
                outbox.add(session, event)
        except MlflowException:  # what is refused is said in any case
            _log.warning("Nobody is told that a promotion of %s was refused.", name, exc_info=True)
