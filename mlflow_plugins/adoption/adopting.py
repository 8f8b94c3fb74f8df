"""Adopting a registry that plain MLflow made: its versions copied, numbered and recorded, by model.

Each step can be repeated, so an adoption that was killed goes on where it was:

1. A version's files are copied, with a manifest, as a registration does it; then its record and tags are
   written. MLflow's own columns still lead to where they were, so a server of plain MLflow goes on serving
   them.
2. When all versions of a model have a record: stages, aliases and trail in one transaction.
3. The first start of our server lets the versions be loaded from the copies (`unadopted.switch_over`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.adoption import plan, unadopted
from mlflow_plugins.adoption.plan import ModelPlan, VersionPlan
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import AnySource
from mlflow_plugins.artifacts.layout import check_model_name
from mlflow_plugins.database.schema import migrate, transitions
from mlflow_plugins.database.schema import versions as records_table
from mlflow_plugins.errors import conflict, is_missing
from mlflow_plugins.lifecycle import audit, rules, semver, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion
from mlflow_plugins.registration import cards, claims, model_info, owners, publishing, records, sources
from mlflow_plugins.registration.model_info import RunFacts
from mlflow_plugins.registration.records import Record
from mlflow_plugins.store.lifecycle_store import LifecycleStore
from mlflow_plugins.store.registering import OWN_TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.destination import Destination
    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.people.actor import Actor
    from mlflow_plugins.registration.publishing import NewVersion

REASON: Final = "adopted"
#: In front of tags of ours that plain MLflow's users had set to something else.
FORMER: Final = "adopted."
_ATTEMPTS: Final = 5

_version: Any = SqlModelVersion
_tag: Any = SqlModelVersionTag
_alias: Any = SqlRegisteredModelAlias


class UnadoptedStore(LifecycleStore):
    """The registry as it is found; nothing of it changes by opening it."""

    def _begin(self) -> None:
        pass


class _Version(NamedTuple):
    """Columns of MLflow's."""

    stage: str
    source: str
    run_id: str | None
    description: str | None


@dataclass(frozen=True)
class _State:
    """A model as the database has it now; `created` is that of its `ModelKey`."""

    model: ModelKey
    versions: dict[int, _Version]
    aliases: dict[str, int]
    tags: dict[int, dict[str, str]]
    records: dict[int, Record]
    #: versions with a trail that begins here
    recorded: frozenset[int]

    @property
    def stages(self) -> dict[int, str]:
        """Of every version."""
        return {number: version.stage for number, version in self.versions.items()}

    @property
    def known(self) -> frozenset[int]:
        """Versions that are adopted, or were registered here."""
        return self.recorded & self.records.keys()


class Adoption:
    """Adopts what plain MLflow left in one registry.

    Args:
        store: the registry.
        destination: where its server is going to keep the files of registered versions.
        actor: whom the audit trail names.
    """

    def __init__(self, store: UnadoptedStore, destination: Destination, actor: Actor) -> None:
        self._store = store
        self._destination = destination
        self._actor = actor
        self._has_our_tables = unadopted.has_our_tables(store.engine)

    def tenants(self) -> list[str]:
        """Tenants with registered models."""
        query: Any = sa.select(cast("Any", SqlRegisteredModel).workspace).distinct()
        with self._store.sessions() as session:
            return sorted(session.scalars(query))

    def plans(self, tenant: str) -> Iterator[ModelPlan]:
        """What would become of each of a tenant's models; nothing is changed."""
        for name in self._models(tenant):
            plan_, _ = self._plan(tenant, name)
            if plan_.versions:
                yield plan_

    def adopt(self, tenant: str) -> Iterator[ModelPlan]:
        """Adopt one model of a tenant after the other, and say what became of it; see `plans`.

        Raises:
            MlflowException: 409, somebody changes a model at the same time; 503, the artifact store failed.
        """
        migrate(self._store.engine)
        self._has_our_tables = True
        for name in self._models(tenant):
            for _ in range(_ATTEMPTS):
                plan_, candidates = self._plan(tenant, name)
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

    # ---- looking

    def _models(self, tenant: str) -> list[str]:
        prompt: Any = SqlRegisteredModelTag
        prompts = sa.select(prompt.name).where(
            prompt.workspace == tenant, prompt.key == IS_PROMPT_TAG_KEY, prompt.value == "true"
        )
        model: Any = SqlRegisteredModel
        query = sa.select(model.name).where(model.workspace == tenant, model.name.not_in(prompts))
        with self._store.sessions() as session:
            return list(session.scalars(query.order_by(model.name)))

    def _look(self, session: Session, tenant: str, name: str) -> _State:
        created: Any = sa.select(cast("Any", SqlRegisteredModel).creation_time)
        same_model = (SqlRegisteredModel.workspace == tenant, SqlRegisteredModel.name == name)
        model = ModelKey(tenant, name, session.scalar(created.where(*same_model)) or 0)
        rows: Any = stages.versions_of(session, model)
        versions = {
            row.version: _Version(
                row.current_stage, row.storage_location or row.source or "", row.run_id, row.description
            )
            for row in rows
        }
        tags: dict[int, dict[str, str]] = {version: {} for version in versions}
        for tag in session.scalars(sa.select(_tag).where(_tag.workspace == tenant, _tag.name == name)):
            if tag.version in tags:
                tags[tag.version][tag.key] = tag.value
        aliases = session.execute(
            sa.select(_alias.alias, _alias.version).where(_alias.workspace == tenant, _alias.name == name)
        )
        found: dict[int, Record] = {}
        recorded: set[int] = set()
        if self._has_our_tables:
            found = {
                record.version: record for record in records.registered(session, model) if record.version
            }
            begins = sa.or_(transitions.c.from_stage.is_(None), transitions.c.reason == REASON)
            query = sa.select(transitions.c.version).where(model.matches(transitions), begins)
            recorded = set(session.scalars(query))
        return _State(
            model=model,
            versions=versions,
            aliases={alias: version for alias, version in aliases if version in versions},
            tags=tags,
            records=found,
            recorded=frozenset(recorded & versions.keys()),
        )

    def _plan(self, tenant: str, name: str) -> tuple[ModelPlan, dict[int, NewVersion]]:
        with self._store.sessions() as session:
            state = self._look(session, tenant, name)
            wanted = {
                version: found.source
                for version, found in state.versions.items()
                if version not in state.known or state.records[version].manifest_sha256 is None
            }
            taken = self._taken(session, state.model)
        candidates: dict[int, NewVersion] = {}
        problems: dict[int, str] = {}
        for version, source in wanted.items():
            record = state.records.get(version)
            if record is not None and record.manifest_sha256 is not None:
                continue  # copied before the adoption was killed
            try:
                check_model_name(name)
                run_id = state.versions[version].run_id
                candidates[version] = self._inspect(tenant, source, run_id, state.tags[version])
            except Exception as error:  # noqa: BLE001 - any artifact store may hold a source, with its own errors
                problems[version] = _problem(name, version, source, error)
        new = [version for version in wanted if version not in state.records]
        interfaces = {version: found.interface for version, found in candidates.items()}
        tags = {version: state.tags[version].get(semver.TAG) for version in new}
        numbers = {
            **{version: record.semantic_version for version, record in state.records.items()},
            **{version: str(number) for version, number in plan.numbers(tags, interfaces, taken).items()},
        }
        after = plan.stages_after(state.stages, state.aliases, state.known)
        aliases = plan.aliases_after(state.aliases, after, state.known)
        versions = [
            VersionPlan(
                version=version,
                from_stage=state.stages[version],
                to_stage=after[version],
                from_number=state.tags[version].get(FORMER + semver.TAG, state.tags[version].get(semver.TAG)),
                number=numbers[version],
                source=source,
                files=len(candidates[version].files) if version in candidates else 0,
                size_bytes=sum(file.size for file in candidates[version].files.values())
                if version in candidates
                else 0,
                problem=problems.get(version),
                is_known=version in state.known,
            )
            for version, source in wanted.items()
        ]
        moved = {
            alias: (state.aliases.get(alias), version)
            for alias, version in sorted(aliases.items())
            if state.aliases.get(alias) != version
        }
        return ModelPlan(tenant, name, versions, moved), candidates

    def _taken(
        self, session: Session, model: ModelKey
    ) -> dict[SemanticVersion, tuple[int | None, Interface | None]]:
        """Numbers that are in use; what a killed adoption claimed is free for the next."""
        if not self._has_our_tables:
            return {}
        return {
            SemanticVersion.parse(row.semantic_version): (
                row.version,
                Interface(row.signature_sha256, row.feature_service),
            )
            for row in session.execute(sa.select(records_table).where(model.matches(records_table)))
            if row.version is not None or not owners.is_abandoned(row)
        }

    def _inspect(self, tenant: str, source: str, run_id: str | None, tags: dict[str, str]) -> NewVersion:
        origin = sources.resolve(self._store, tenant, source, run_id, model_info.logged_model(source))
        return publishing.inspect(AnySource(self._destination), origin, tenant, tags)

    # ---- doing

    def _record(self, plan_: ModelPlan, version: VersionPlan, candidate: NewVersion | None) -> None:
        """Copy a version's files, with a manifest, where they can be; write its record and its tags."""
        tenant, name = plan_.tenant, plan_.model
        copies = version.problem is None and candidate is not None
        with self._store.sessions() as session:
            state = self._look(session, tenant, name)
            record = state.records.get(version.version)
            if record is not None and (record.manifest_sha256 is not None or not copies):
                return
        with owners.owner() as me:
            with self._store.transaction() as session:
                model = stages.lock_model(session, tenant, name)
                location = self._destination.uri(tenant, name, version.number) if copies else None
                claimed = record or claims.claim(
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
                    with owners.renewing(lambda: self._renew(claimed)):
                        digest = self._publish(state, version, candidate, location)
                with self._store.transaction() as session:
                    stages.lock_model(session, tenant, name)
                    if record is None:
                        claims.complete(session, claimed, version.version, digest)
                    elif digest is not None:
                        _add_digest(session, record, str(location), digest)
                    tags = {semver.TAG: version.number}
                    if digest is not None and candidate is not None:
                        tags |= {manifest.TAG: digest.manifest_sha256}
                        tags |= {cards.CARD_TAG: cards.make(candidate, digest)}
                    before = {} if record else state.tags[version.version]
                    _write_tags(session, state.model, version.version, before, tags)
            except BaseException:
                if record is None:  # what was copied stays for the next attempt
                    with self._store.transaction() as session:
                        claims.give_up(session, claimed)
                raise

    def _publish(
        self, state: _State, version: VersionPlan, candidate: NewVersion, location: str
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
            claims.renew(session, claimed)

    def _settle(self, plan_: ModelPlan) -> bool:
        """Stages, aliases and trail at once; False when the model is not what was planned for any more."""
        with self._store.transaction() as session:
            model = stages.lock_model(session, plan_.tenant, plan_.model)
            state = self._look(session, plan_.tenant, plan_.model)
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
        self, session: Session, state: _State, version_plan: VersionPlan | None, version: int, target: str
    ) -> None:
        origin = state.stages[version]
        record = state.records[version]
        evidence: dict[str, Any] = {"manifest_sha256": record.manifest_sha256}
        evidence |= {"aliases": sorted(a for a, holder in state.aliases.items() if holder == version)}
        if version_plan is not None:
            evidence |= {"source": version_plan.source, "semantic_version_before": version_plan.from_number}
            evidence |= {"unsealed": version_plan.problem} if version_plan.problem else {}
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
    return candidate.interface if candidate else model_info.interface({}, tags, RunFacts())


def _add_digest(session: Session, record: Record, location: str, digest: ManifestDigest) -> None:
    """Files of an adopted version that could not be read then."""
    values = {
        "location": location,
        "manifest_sha256": digest.manifest_sha256,
        "file_count": digest.file_count,
        "size_bytes": digest.size_bytes,
    }
    session.execute(sa.update(records_table).where(records_table.c.id == record.id).values(**values))


def _write_tags(
    session: Session, model: ModelKey, version: int, before: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Write tags of ours; what somebody had under their names stays under another."""
    for key in {semver.TAG, *OWN_TAGS} & before.keys():
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


def _problem(name: str, version: int, source: str, error: Exception) -> str:
    """Why a version gets no manifest, and what to do."""
    try:
        check_model_name(name)
    except MlflowException:
        return (
            f"{name!r} cannot be the name of a folder, so its files stay where they are. To have them "
            f"verified, copy it: MlflowClient().copy_model_version('models:/{name}/{version}', 'NEW-NAME')."
        )
    if isinstance(error, MlflowException) and is_missing(error):
        return (
            f"There are no files at {source}. Bring them there and run this again, or delete the version: "
            "it cannot be loaded."
        )
    what = error.message if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"
    return (
        f"Its files at {source} cannot be read from here ({str(what).partition(chr(10))[0]}). Make them "
        "readable and run this again, or register the model anew from its run."
    )
