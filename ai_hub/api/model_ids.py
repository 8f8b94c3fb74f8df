"""What requests about models name: `tenant:model:version`, and stages. Does not import MLflow."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ai_hub import names
from ai_hub.errors import BadInputError
from mlflow_plugins.lifecycle import rules, semver

_TENANT: Final = re.compile(names.WORKSPACE_PATTERN)
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
_EXAMPLE: Final = "city-works:demand-forecast:v1.2.0"
_LONGEST: Final = 240


class ModelId(NamedTuple):
    """A version: `v1.2.0`, or MLflow's own number as text."""

    tenant: str
    model: str
    version: str

    def __str__(self) -> str:
        return ":".join(self)


def parse(text: str) -> ModelId:
    """Take an id apart; `1.2.0` is `v1.2.0`.

    Raises:
        BadInputError: it is none.
    """
    parts = text.split(":")
    if len(text) <= _LONGEST and len(parts) == len(ModelId._fields):
        tenant, model, version = parts
        semantic = semver.parsed(version)
        known = str(semantic) if semantic else version if _NUMBER.fullmatch(version) else None
        if known and _TENANT.fullmatch(tenant) and _MODEL.fullmatch(model):
            return ModelId(tenant, model, known)
    shown = text if len(text) <= _LONGEST and text.isprintable() else f"{text[:40]!a}…"
    raise BadInputError(
        f"{shown} is not the id of a model version.",
        hint=f"Ids are tenant:model:version, for example {_EXAMPLE}; MLflow's number is a version, too.",
    )


def stage_of(text: str) -> str:
    """A stage as the registry writes it, from any case.

    Raises:
        BadInputError: there is no such stage.
    """
    try:
        return rules.ALIAS_STAGES[text.lower()]
    except KeyError:
        raise BadInputError(
            f"There is no stage {text[:40]!a}.", hint="Stages are staging, production, archived."
        ) from None
