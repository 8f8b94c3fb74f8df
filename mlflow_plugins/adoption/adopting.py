"""Adopting a registry that plain MLflow made: its versions copied, numbered and recorded, by model.

Each step can be repeated, so an adoption that was killed goes on where it was:

1. A version's files are copied, with a manifest, as a registration does it; then its record and tags are
   written. MLflow's own columns still lead to where they were, so a server of plain MLflow goes on serving
   them.
2. When all versions of a model have a record: stages, aliases and trail in one transaction.
3. The first start of our server lets the versions be loaded from the copies (`unadopted.switch_over`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModelAlias,
)
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.adoption import plan, unadopted
from mlflow_plugins.adoption.survey import FORMER, REASON, ModelState, Survey
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.database import migrate, transitions
from mlflow_plugins.database import versions as records_table
from mlflow_plugins.errors import conflict
from mlflow_plugins.lifecycle import audit, rules, semver, stages
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion
from mlflow_plugins.registration import model_metadata, publishing, records
from mlflow_plugins.registration.model_metadata import RunFacts
from mlflow_plugins.store import tags as own_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.orm import Session

    from mlflow_plugins.adoption.plan import ModelPlan, VersionPlan
    from mlflow_plugins.artifacts.destination import Destination
    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.registration.publishing import NewVersion
    from mlflow_plugins.registration.records import Record
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.users.permissions import Actor

_ATTEMPTS: Final = 5

_version: Any = SqlModelVersion
_tag: Any = SqlModelVersionTag
_alias: Any = SqlRegisteredModelAlias


class Adoption:
    """Adopts what plain MLflow left in one registry.

    Args:
        store: the registry.
        destination: where its server is going to keep the files of registered versions.
        actor: whom the audit trail names.
    """

    def __init__(self, store: LifecycleStore, destination: Destination, actor: Actor) -> None:
        self._store = store
        self._destination = destination
        self._actor = actor
        self._survey = Survey(store, destination)

    def tenants(self) -> list[str]:
        """Tenants with registered models."""
        return self._survey.tenants()

    def plans(self, tenant: str) -> Iterator[ModelPlan]:
        """What would become of each of a tenant's models; nothing is changed."""
        for name in self._survey.models(tenant):
            plan_, _ = self._survey.plan(tenant, name)
            if plan_.versions:
                yield plan_

    def adopt(self, tenant: str) -> Iterator[ModelPlan]:
        """Adopt one model of a tenant after the other, and say what became of it; see `plans`.

        Raises:
            MlflowException: 409, somebody changes a model at the same time; 503, the artifact store failed.
        """
        migrate(self._store.engine)
        self._survey = Survey(self._store, self._destination)
        for name in self._survey.models(tenant):
            for _ in range(_ATTEMPTS):
                plan_, candidates = self._survey.plan(tenant, name)
                if not plan_.changes:
                    break
                for version in plan_.versions:
                    self._record(plan_, version, candidates.get(version.version))
                if self._settle(plan_):
                    break
            else:
                raise conflict(
                    f"Somebody changes model {name} of tenant {tenant} all the time. Stop the server that "
                    f"uses this registry, then run `{unadopted.COMMAND}` again."
                )
            if plan_.versions:
                yield plan_

    def _record(self, plan_: ModelPlan, version: VersionPlan, candidate: NewVersion | None) -> None:
        """Copy a version's files, with a manifest, where they can be; write its record and its tags."""
        tenant, name = plan_.tenant, plan_.model
        copies = version.problem is None and candidate is not None
        with self._store.sessions() as session:
            state = self._survey.read(session, tenant, name)
            record = state.records.get(version.version)
            if record is not None and (record.manifest_sha256 is not None or not copies):
                return
        with records.lease_holder() as me:
            with self._store.transaction() as session:
                model = stages.lock_model(session, tenant, name)
                location = self._destination.uri(tenant, name, version.number) if copies else None
                claimed = record or records.acquire_claim(
                    session,
                    model,
                    me,
                    SemanticVersion.parse(version.number),
                    _interface(candidate, state.tags[version.version]),
                    insist=True,
                    locate=lambda _: location,
                )
            try:
                digest = None
                if candidate is not None and location is not None:
                    with records.renewing(lambda: self._renew(claimed)):
                        digest = self._publish(state, version, candidate, location)
                with self._store.transaction() as session:
                    stages.lock_model(session, tenant, name)
                    if record is None:
                        records.complete_claim(session, claimed, version.version, digest)
                    elif digest is not None:
                        _add_digest(session, record, str(location), digest)
                    tags = {semver.TAG: version.number}
                    if digest is not None and candidate is not None:
                        tags |= {manifest.TAG: digest.manifest_sha256}
                        tags |= {model_metadata.CARD_TAG: model_metadata.make_card(candidate, digest)}
                    before = {} if record else state.tags[version.version]
                    _write_tags(session, state.model, version.version, before, tags)
            except BaseException:
                if record is None:  # what was copied stays for the next attempt
                    with self._store.transaction() as session:
                        records.release_claim(session, claimed)
                raise

    def _publish(
        self, state: ModelState, version: VersionPlan, candidate: NewVersion, location: str
    ) -> ManifestDigest:
        found = state.versions[version.version]
        identity = {
            "tenant_id": state.model.workspace,
            "model_name": state.model.name,
            "semantic_version": version.number,
        }
        extra = {
            "run_id": found.run_id,
            "description": found.description,
            "tags": {**state.tags[version.version], semver.TAG: version.number},
        }
        target = self._destination.folder(location, state.model.workspace)
        return publishing.publish(candidate, target, identity, extra)

    def _renew(self, claimed: Record) -> None:
        with self._store.transaction() as session:
            records.renew_claim(session, claimed)

    def _settle(self, plan_: ModelPlan) -> bool:
        """Stages, aliases and trail at once; False when the model is not what was planned for any more."""
        with self._store.transaction() as session:
            model = stages.lock_model(session, plan_.tenant, plan_.model)
            state = self._survey.read(session, plan_.tenant, plan_.model)
            planned = {version.version: version for version in plan_.versions}
            is_same = all(state.stages.get(each.version) == each.from_stage for each in plan_.versions)
            if not is_same or state.versions.keys() != state.records.keys():
                return False
            after = plan.stages_after(state.stages, state.aliases, state.known)
            aliases = plan.aliases_after(state.aliases, after, state.known)
            left_production = False
            for version in plan.entry_order(after, state.aliases):
                known, target = version in state.known, after[version]
                is_changed = version in planned and not (known and planned[version].problem is not None)
                # what was in production before stays so in the trail, whatever was displaced
                if not is_changed and not (left_production and target == rules.PRODUCTION):
                    continue
                self._write_trail(session, state, planned.get(version), version, target)
                left_production |= rules.PRODUCTION in {state.stages[version]} - {target}
            stages.mirror_aliases(session, model)
            for alias, holder in aliases.items():
                if alias not in rules.ALIAS_STAGES:
                    _point(session, model, alias, holder)
        return True

    def _write_trail(
        self, session: Session, state: ModelState, version_plan: VersionPlan | None, version: int, target: str
    ) -> None:
        origin = state.stages[version]
        record = state.records[version]
        evidence: dict[str, Any] = {"manifest_sha256": record.manifest_sha256}
        evidence |= {"aliases": sorted(a for a, holder in state.aliases.items() if holder == version)}
        if version_plan is not None:
            evidence |= {"source": version_plan.source, "semantic_version_before": version_plan.from_number}
            evidence |= {"without_manifest": version_plan.problem} if version_plan.problem else {}
        begins = version not in state.recorded
        has_trail = not begins or _has_trail(session, state.model, version)
        steps = [(origin if has_trail else None, origin)] if begins or origin == target else []
        steps += [(origin, target)] if origin != target else []
        for from_stage, to_stage in steps:
            audit.record(
                session,
                state.model,
                version=version,
                semantic_version=record.semantic_version,
                from_stage=from_stage,
                to_stage=to_stage,
                actor=self._actor,
                reason=REASON,
                evidence=evidence,
            )
        if origin != target:
            session.execute(
                sa.update(_version)
                .where(_version.workspace == state.model.workspace, _version.name == state.model.name)
                .where(_version.version == version)
                .values(current_stage=target, last_updated_time=get_current_time_millis())
                .execution_options(synchronize_session=False)
            )


def _has_trail(session: Session, model: ModelKey, version: int) -> bool:
    query = sa.select(transitions.c.id).where(model.matches(transitions), transitions.c.version == version)
    return session.execute(query.limit(1)).first() is not None


def _interface(candidate: NewVersion | None, tags: dict[str, str]) -> Interface:
    return candidate.interface if candidate else model_metadata.interface({}, tags, RunFacts())


def _add_digest(session: Session, record: Record, location: str, digest: ManifestDigest) -> None:
    """Files of an adopted version that could not be read then."""
    values = {"location": location, **asdict(digest)}
    session.execute(sa.update(records_table).where(records_table.c.id == record.id).values(**values))


def _write_tags(
    session: Session, model: ModelKey, version: int, before: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Write tags of ours; what somebody had under their names stays under another."""
    for key in {semver.TAG, *own_tags.OWN} & before.keys():
        if before[key] != tags.get(key):
            _put_tag(session, model, version, FORMER + key, before[key])
            if key not in tags:
                session.delete(session.get(_tag, (model.workspace, key, model.name, version)))
    for key, value in tags.items():
        _put_tag(session, model, version, key, value)


def _put_tag(session: Session, model: ModelKey, version: int, key: str, value: str) -> None:
    session.merge(_tag(workspace=model.workspace, name=model.name, version=version, key=key, value=value))


def _point(session: Session, model: ModelKey, alias: str, version: int | None) -> None:
    """Let an alias of a stage, spelled otherwise, say the same; the first start of our server removes it."""
    row: Any = session.get(_alias, (model.workspace, model.name, alias))
    if version is None:
        session.delete(row)
    else:
        row.version = version
