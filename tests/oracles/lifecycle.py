"""A model in a registry store, and what must hold about it after every step."""

from __future__ import annotations

import secrets
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

STAGES = ("Staging", "Production", "Archived")


class Model:
    """One registered model with a name nobody else uses."""

    def __init__(self, store: LifecycleStore, name: str | None = None) -> None:
        self.store = store
        self.name = name or f"model-{secrets.token_hex(5)}"
        if name is None:
            store.create_registered_model(self.name)

    def register(self, **tags: str) -> int:
        """Register a version; returns its number."""
        tag_list = [ModelVersionTag(key.replace("__", "."), value) for key, value in tags.items()]
        return int(self.store.create_model_version(self.name, "runs-elsewhere", tags=tag_list).version)

    def move(self, version: int, stage: str, *, archive: bool = False) -> None:
        """Change the stage as MLflow's stage menu does."""
        self.store.transition_model_version_stage(self.name, version, stage, archive)

    def alias(self, alias: str, version: int) -> None:
        """Set an alias as the pages' default look does."""
        self.store.set_registered_model_alias(self.name, alias, version)

    def tag(self, version: int, key: str, value: str) -> None:
        """Set a tag as MLflow's pages do."""
        self.store.set_model_version_tag(self.name, version, ModelVersionTag(key, value))

    def stage(self, version: int) -> str:
        """The present stage."""
        return str(self.store.get_model_version(self.name, version).current_stage)

    def stages(self) -> dict[int, str]:
        """Every version's stage."""
        found = self.store.search_model_versions(f"name = '{self.name}'", max_results=1000)
        return {int(version.version): str(version.current_stage) for version in found}

    def aliases(self) -> dict[str, int]:
        """Every alias."""
        aliases = self.store.get_registered_model(self.name).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def check(self) -> None:
        """Fail unless one version at most is in production, the trail replays, and aliases mirror stages."""
        stages = self.stages()
        assert Counter(stages.values())["Production"] <= 1
        replayed: dict[int, str] = {}
        last_entry: dict[tuple[int, str], int] = {}
        for row in reversed(self.store.history(self.name)):
            assert row.from_stage == replayed.get(row.version), row
            replayed[row.version] = row.to_stage
            last_entry[row.version, row.to_stage] = row.id
        assert {version: stage for version, stage in replayed.items() if stage != "Deleted"} == stages
        expected = {}
        for stage in STAGES:
            if inside := [version for version, present in stages.items() if present == stage]:
                expected[stage.lower()] = max(inside, key=lambda version: last_entry[version, stage])
        aliases = self.aliases()
        assert {alias: aliases[alias] for alias in aliases if alias.capitalize() in STAGES} == expected


def refused(action: Callable[[], object]) -> str | None:
    """The text when `action` is refused with HTTP 409; None when it is done."""
    try:
        action()
    except MlflowException as error:
        if error.get_http_status_code() != HTTPStatus.CONFLICT:
            raise
        return str(error.message)
    return None
