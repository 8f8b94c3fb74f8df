"""MLflow's tables as the page reads them: by columns, because its objects ask the database one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)

from mlflow_plugins.lifecycle import semver

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey

# MLflow declares its tables without types
models: Final = cast("sa.Table", SqlRegisteredModel.__table__)
versions: Final = cast("sa.Table", SqlModelVersion.__table__)
_model_tags: Final = cast("sa.Table", SqlRegisteredModelTag.__table__)
_version_tags: Final = cast("sa.Table", SqlModelVersionTag.__table__)


def is_model(table: sa.Table) -> sa.ColumnElement[bool]:
    """Condition: what the row is about is no prompt, which MLflow keeps in the same tables."""
    prompt = sa.exists().where(
        _model_tags.c.workspace == table.c.workspace,
        _model_tags.c.name == table.c.name,
        _model_tags.c.key == IS_PROMPT_TAG_KEY,
        _model_tags.c.value == "true",
    )
    return ~prompt


def tag_of_versions(session: Session, model: ModelKey, key: str) -> dict[int, str]:
    """The values of a tag by version of the model."""
    tags = _version_tags.c
    mine = (tags.workspace == model.workspace, tags.name == model.name, tags.key == key)
    return {
        row.version: row.value for row in session.execute(sa.select(tags.version, tags.value).where(*mine))
    }


def select_versions(tenant: str) -> sa.Select[Any]:
    """A tenant's versions that are not deleted: MLflow's columns, and `semantic_version`."""
    number = sa.and_(
        _version_tags.c.workspace == versions.c.workspace,
        _version_tags.c.name == versions.c.name,
        _version_tags.c.version == versions.c.version,
        _version_tags.c.key == semver.TAG,
    )
    return (
        sa.select(versions, _version_tags.c.value.label("semantic_version"))
        .outerjoin(_version_tags, number)
        .where(versions.c.workspace == tenant, versions.c.current_stage != STAGE_DELETED_INTERNAL)
    )
