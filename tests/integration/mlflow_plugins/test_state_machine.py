"""Random calls in random order; the invariants hold after every one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import STAGES, Model, refused
from support.properties import examples

from mlflow_plugins.store.lifecycle_store import LifecycleStore

ALIASES = ("production", "staging", "archived", "champion")
VERSIONS = st.integers(1, 6)
_MANY = 6


class Life(RuleBasedStateMachine):
    """A model and a simple account of what it must look like."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "mlflow.db")
        shutil.copy(self.template, path)
        self.store = LifecycleStore(f"lifecycle+sqlite:///{path}")
        self.model = Model(self.store)
        self.expected: dict[int, str] = {}
        self.promoted: list[int] = []

    def teardown(self) -> None:
        self.store._dispose_engine()
        SqlAlchemyStore._engine_map.pop(self.store.db_uri, None)
        self.folder.cleanup()

    @precondition(lambda self: len(self.expected) < _MANY)
    @rule()
    def register(self) -> None:
        """A new version is the next number and in Staging."""
        version = self.model.register()
        assert version == len(self.expected) + 1
        self.expected[version] = "Staging"

    @rule(version=VERSIONS, stage=st.sampled_from(STAGES), archive=st.booleans())
    def move(self, version: int, stage: str, archive: bool) -> None:
        """The stage menu."""
        if self.expected.get(version, "Deleted") != "Deleted" and not (archive and stage == "Archived"):
            done = refused(lambda: self.model.move(version, stage, archive=archive)) is None
            self._account(version, stage, done=done, allowed=self._allowed(version, stage), archive=archive)

    @rule(version=VERSIONS, alias=st.sampled_from(ALIASES))
    def set_alias(self, version: int, alias: str) -> None:
        """The alias dialog."""
        if self.expected.get(version, "Deleted") == "Deleted":
            return
        stage = alias.capitalize()
        holds = self.model.aliases().get(alias) == version
        done = refused(lambda: self.model.alias(alias, version)) is None
        if stage in STAGES and not holds:
            self._account(version, stage, done=done, allowed=self._allowed(version, stage))
        else:
            assert done

    @rule(alias=st.sampled_from(ALIASES))
    def delete_alias(self, alias: str) -> None:
        """Refused exactly for aliases that mirror a stage."""
        mirrors = alias != "champion" and alias in self.model.aliases()
        refusal = refused(lambda: self.store.delete_registered_model_alias(self.model.name, alias))
        assert (refusal is not None) == mirrors

    @rule()
    def roll_back(self) -> None:
        """The archived version promoted last comes back."""
        candidates = [each for each in reversed(self.promoted) if self.expected[each] == "Archived"]
        done = refused(lambda: self.store.roll_back(self.model.name)) is None
        assert done == bool(candidates)
        if candidates:
            self._account(candidates[0], "Production", done=True, allowed=True)

    @rule(version=VERSIONS, force=st.booleans())
    def delete(self, version: int, force: bool) -> None:
        """Archived ones go; by force all."""
        if self.expected.get(version, "Deleted") == "Deleted":
            return
        stage = self.expected[version]
        refusal = refused(lambda: self.store.remove_version(self.model.name, version, force=force))
        assert (refusal is None) == (force or stage == "Archived")
        if refusal is None:
            self.expected[version] = "Deleted"

    @invariant()
    def holds(self) -> None:
        """The store agrees with the account and with itself."""
        present = {version: stage for version, stage in self.expected.items() if stage != "Deleted"}
        assert self.model.stages() == present
        self.model.check()

    def _allowed(self, version: int, stage: str) -> bool:
        following = {
            "Staging": {"Production", "Archived"},
            "Production": {"Archived"},
            "Archived": {"Staging", *(["Production"] if version in self.promoted else [])},
        }
        return stage in following[self.expected[version]]

    def _account(self, version: int, stage: str, *, done: bool, allowed: bool, archive: bool = False) -> None:
        assert done == allowed
        if not done:
            return
        if stage == "Production" or archive:
            for other, now in self.expected.items():
                if other != version and now == stage:
                    self.expected[other] = "Archived"
        self.expected[version] = stage
        if stage == "Production":
            self.promoted = [*(each for each in self.promoted if each != version), version]


def test_life__any_order_of_calls(sqlite_template: Path) -> None:
    Life.template = sqlite_template
    relaxed: Any = settings(
        max_examples=examples(5),
        stateful_step_count=20,
        phases=[Phase.generate],  # shrinking a failure would take minutes
    )
    run_state_machine_as_test(Life, settings=relaxed)
