"""Versions that plain MLflow registered, which our rules know nothing of, and the start on adopted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)

from mlflow_plugins.database import transitions, versions
from mlflow_plugins.errors import conflict
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.registration.records import REGISTERED

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

COMMAND: Final = "ai-hub registry adopt"

_version: Any = SqlModelVersion
_model: Any = SqlRegisteredModel
_alias: Any = SqlRegisteredModelAlias
_tag: Any = SqlRegisteredModelTag


class Unadopted(NamedTuple):
    """A version; `created` (ms) is when its model was made."""

    workspace: str
    name: str
    created: int
    version: int


def find(engine: sa.Engine) -> list[Unadopted]:
    """Versions without a record or a trail of ours, in order; prompts and deleted versions are none."""
    present = (
        sa.select(
            _version.workspace, _version.name, sa.func.coalesce(_model.creation_time, 0), _version.version
        )
        .join(_model, sa.and_(_model.workspace == _version.workspace, _model.name == _version.name))
        .where(_version.current_stage != STAGE_DELETED_INTERNAL, ~_is_prompt(_version))
    )
    queries: list[Any] = [present]
    if has_our_tables(engine):
        # set operations: MLflow's tables may hold a hundred thousand versions
        keys = [
            (table.c.workspace, table.c.name, table.c.model_created, table.c.version)
            for table in (versions, transitions)
        ]
        queries = [present.except_(sa.select(*key)) for key in keys]
    with engine.connect() as connection:
        return sorted({Unadopted(*row) for query in queries for row in connection.execute(query)})


def _is_prompt(row: Any) -> sa.ColumnElement[bool]:
    """Whether a row's model is a prompt."""
    return sa.exists().where(
        _tag.workspace == row.workspace,
        _tag.name == row.name,
        _tag.key == IS_PROMPT_TAG_KEY,
        _tag.value == "true",
    )


def has_our_tables(engine: sa.Engine) -> bool:
    """Whether a store of ours has ever been opened on this database."""
    return sa.inspect(engine).has_table(versions.name)


def refusal(found: list[Unadopted]) -> MlflowException:
    """Why no server of ours starts on a registry with these (HTTP 409)."""
    models = {(each.workspace, each.name) for each in found}
    return conflict(
        f"This registry has {counted(len(found), len(models))} that plain MLflow registered. "
        f"Stop the server that used it, see what would become of them with `{COMMAND} --dry-run`, run "
        f"`{COMMAND}`, then start again."
    )


def counted(versions: int, models: int) -> str:
    """So many versions of so many models, in words."""
    ends = ["" if count == 1 else "s" for count in (versions, models)]
    return f"{versions} version{ends[0]} of {models} model{ends[1]}"


def switch_over(engine: sa.Engine) -> None:
    """Let adopted versions be loaded from their verified copies.

    Not part of the adoption: until a server of ours starts, the old one serves files from where they were.
    """
    same = sa.and_(
        versions.c.workspace == _version.workspace,
        versions.c.name == _version.name,
        versions.c.version == _version.version,
        versions.c.state == REGISTERED,
        versions.c.location.is_not(None),
    )
    copies = sa.select(versions.c.location).where(same)
    present = sa.func.coalesce(_version.storage_location, "")
    elsewhere = sa.exists(copies.where(versions.c.location != present))
    # a prompt has no stages, so its aliases mean what they say
    misspelt = sa.and_(
        sa.func.lower(_alias.alias).in_(rules.ALIAS_STAGES),
        _alias.alias.not_in(rules.ALIAS_STAGES),
        ~_is_prompt(_alias),
    )
    with engine.connect() as connection:
        if connection.scalar(sa.select(sa.literal(1)).where(_version.version > 0, elsewhere).limit(1)):
            connection.execute(
                sa.update(_version)
                .where(elsewhere)
                .values(storage_location=copies.limit(1).scalar_subquery())
                .execution_options(synchronize_session=False)
            )
        if connection.scalar(sa.select(sa.literal(1)).where(misspelt).limit(1)):
            connection.execute(sa.delete(_alias).where(misspelt))
        connection.commit()
