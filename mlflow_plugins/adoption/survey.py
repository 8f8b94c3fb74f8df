"""What plain MLflow left in a registry, and what adoption would make of it; nothing is changed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)

from mlflow_plugins.adoption import plan as plans
from mlflow_plugins.adoption import unadopted
from mlflow_plugins.adoption.plan import ModelPlan, VersionPlan
from mlflow_plugins.artifacts.destination import AnySource, check_model_name
from mlflow_plugins.database import transitions
from mlflow_plugins.database import versions as records_table
from mlflow_plugins.errors import is_missing
from mlflow_plugins.lifecycle import semver, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion
from mlflow_plugins.registration import model_metadata, publishing, records
from mlflow_plugins.registration.records import Record

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.destination import Destination
    from mlflow_plugins.registration.publishing import NewVersion
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


REASON: Final = "adopted"
#: In front of tags of ours that plain MLflow's users had set to something else.
FORMER: Final = "adopted."

_tag: Any = SqlModelVersionTag
_alias: Any = SqlRegisteredModelAlias


class VersionColumns(NamedTuple):
    """Columns of MLflow's."""

    stage: str
    source: str
    run_id: str | None
    description: str | None


@dataclass(frozen=True)
class ModelState:
    """A model as the database has it now; `created` is that of its `ModelKey`."""

    model: ModelKey
    versions: dict[int, VersionColumns]
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


class Survey:
    """Reads one registry.

    Args:
        store: the registry.
        destination: where its server is going to keep the files of registered versions.
    """

    def __init__(self, store: LifecycleStore, destination: Destination) -> None:
        self._store = store
        self._destination = destination
        self._has_our_tables = unadopted.has_our_tables(store.engine)

    def tenants(self) -> list[str]:
        """Tenants with registered models."""
        query: Any = sa.select(cast("Any", SqlRegisteredModel).workspace).distinct()
        with self._store.sessions() as session:
            return sorted(session.scalars(query))

    def models(self, tenant: str) -> list[str]:
        """A tenant's models by name, without prompts."""
        prompt: Any = SqlRegisteredModelTag
        prompts = sa.select(prompt.name).where(
            prompt.workspace == tenant, prompt.key == IS_PROMPT_TAG_KEY, prompt.value == "true"
        )
        model: Any = SqlRegisteredModel
        query = sa.select(model.name).where(model.workspace == tenant, model.name.not_in(prompts))
        with self._store.sessions() as session:
            return list(session.scalars(query.order_by(model.name)))

    def read(self, session: Session, tenant: str, name: str) -> ModelState:
        """A model as the database has it now."""
        created: Any = sa.select(cast("Any", SqlRegisteredModel).creation_time)
        same_model = (SqlRegisteredModel.workspace == tenant, SqlRegisteredModel.name == name)
        model = ModelKey(tenant, name, session.scalar(created.where(*same_model)) or 0)
        rows: Any = stages.versions_of(session, model)
        versions = {
            row.version: VersionColumns(
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
        return ModelState(
            model=model,
            versions=versions,
            aliases={alias: version for alias, version in aliases if version in versions},
            tags=tags,
            records=found,
            recorded=frozenset(recorded & versions.keys()),
        )

    def plan(self, tenant: str, name: str) -> tuple[ModelPlan, dict[int, NewVersion]]:
        """What becomes of a model, and what its versions are made from, as far as that can be read."""
        with self._store.sessions() as session:
            state = self.read(session, tenant, name)
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
            **{version: str(number) for version, number in plans.numbers(tags, interfaces, taken).items()},
        }
        after = plans.stages_after(state.stages, state.aliases, state.known)
        aliases = plans.aliases_after(state.aliases, after, state.known)
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
            for row in session.execute(sa.select(*records.FIRST_COLUMNS).where(model.matches(records_table)))
            if row.version is not None or not records.is_abandoned(row)
        }

    def _inspect(self, tenant: str, source: str, run_id: str | None, tags: dict[str, str]) -> NewVersion:
        origin = publishing.resolve_source(
            self._store, tenant, source, run_id, model_metadata.logged_model(source)
        )
        return publishing.inspect(AnySource(self._destination), origin, tenant, tags)


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
