"""Gates in the store: what is asked, how often, what the audit trail keeps; gates of anybody's package."""

from __future__ import annotations

import importlib
import sys
import threading
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.exceptions import MlflowException
from oracles.lifecycle import Model, refused
from support.comparisons import record, stand_in

from mlflow_plugins.gates import policy as policy_rules
from mlflow_plugins.gates.comparison import plan_tag, record_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

    _Policy = Callable[[str], None]

_GATES = '''
from typing import ClassVar
from pydantic import Field
from mlflow_plugins.gates.gate import Gate, passed, refused

#: What a test wants to happen when a gate is asked.
on_check = []

class Watching(Gate):
    """Tells the test that it was asked, and by default looks at nothing."""
    name: ClassVar[str] = "watching"
    on_rollback: ClassVar[bool] = True
    looks_at_production: bool = Field(default=False, description="look at what would be displaced")

    def check(self, candidate):
        seen = candidate.production.version if self.looks_at_production and candidate.production else None
        for action in list(on_check):
            action(candidate.version, seen)
        return passed("Seen.", production=seen)

class Never(Gate):
    """Refuses everything."""
    name: ClassVar[str] = "never"

    def check(self, candidate):
        return refused("It is Friday.", "Come back on Monday.", weekday="Friday")

class Defective(Gate):
    """Breaks."""
    name: ClassVar[str] = "defective"

    def check(self, candidate):
        return 1 / 0

not_a_gate = object()
'''
_ENTRY_POINTS = """
[ai_hub.promotion_gates]
watching = city_gates:Watching
never = city_gates:Never
defective = city_gates:Defective
not_a_gate = city_gates:not_a_gate
missing = city_gates:NotThere
named_otherwise = city_gates:Never
signature = city_gates:Never
"""


def _forget() -> None:
    policy_rules._entry_points.cache_clear()
    policy_rules.gate_class.cache_clear()
    policy_rules.parse.cache_clear()


@pytest.fixture
def city_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of an installed distribution `city-gates`."""
    site = tmp_path / "site"
    record = site / "city_gates-1.0.dist-info"
    record.mkdir(parents=True)
    (site / "city_gates.py").write_text(_GATES)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: city-gates\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(_ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    _forget()
    yield importlib.import_module("city_gates")
    monkeypatch.delitem(sys.modules, "city_gates")
    _forget()


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Policy:
    """Put a policy into force."""
    path = tmp_path / "policy.yaml"
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(path))

    def write(text: str) -> None:
        path.write_text(dedent(text))

    write("")
    return write


@pytest.fixture
def model(sqlite_store: LifecycleStore) -> Model:
    """A model with three versions; the first is in Production."""
    made = Model(sqlite_store)
    for _ in range(3):
        made.register()
    made.move(1, "Production")
    return made


def _gates_of(model: Model) -> dict[str, Any]:
    evidence: dict[str, Any] = model.store.history(model.name)[0].evidence
    return dict(evidence["gates"])


def test_every_gate_is_asked__and_the_refusal_names_each_with_its_way_out(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    asked: list[int] = []
    city_gates.on_check.append(lambda version, _: asked.append(version))
    policy("defaults: {manifest: {required: true}, never: true, defective: true, watching: true}")
    text = refused(lambda: model.move(2, "Production"))
    assert asked == [2]
    assert text is not None
    heading, *lines = text.splitlines()
    assert heading == (
        f"Version 2 (v1.0.1) of model {model.name} stays in Staging: 3 of 4 gates to Production refuse it."
    )
    assert [line.partition(":")[0] for line in lines] == ["• manifest", "• never", "• defective"]
    assert "Register the model anew" in lines[0]
    assert lines[1] == "• never: It is Friday. Come back on Monday."
    assert "defective (ZeroDivisionError: division by zero)" in lines[2]
    assert model.stages() == {1: "Production", 2: "Staging", 3: "Staging"}
    model.check()


def test_a_promotion__keeps_the_evidence_of_every_gate_and_the_policys_hash(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    del city_gates
    policy("defaults: {watching: {looks_at_production: true}}")
    model.move(2, "Production")
    assert _gates_of(model) == {
        "manifest": {
            "manifest": "none",
            "text": "Version 2 has no manifest, so its files cannot be checked.",
        },
        "watching": {"production": 1, "text": "Seen."},
    }
    origin = model.store.history(model.name)[0].evidence["policy"]
    assert origin["source"].endswith("policy.yaml")
    assert len(origin["sha256"]) == 64
    model.move(2, "Archived")
    assert model.store.history(model.name)[0].evidence == {}


def test_other_moves__are_not_guarded(model: Model, policy: _Policy, city_gates: Any) -> None:
    del city_gates
    policy("defaults: {never: true}")
    for version, stage in ((2, "Archived"), (2, "Staging"), (1, "Archived")):
        model.move(version, stage)
    model.check()


def test_rollback__is_asked_for_by_the_gates_that_guard_it(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    del city_gates
    model.move(2, "Production")
    policy("defaults: {never: true, watching: true, reason: {min_length: 5}}")
    assert "reason" in (refused(lambda: model.store.roll_back(model.name)) or "")
    found = model.store.gates(model.name, 1, reason="drift since noon")
    assert (found.rollback, found.passed, found.displaces, found.skipped) == (True, True, 2, ("never",))
    model.store.roll_back(model.name, reason="drift since noon")
    evidence = model.store.history(model.name)[0].evidence
    assert set(evidence["gates"]) == {"manifest", "watching", "reason"}
    assert evidence["not_on_rollback"] == ["never"]


def test_asking__changes_nothing__and_sees_what_a_promotion_would_see(model: Model, policy: _Policy) -> None:
    policy("defaults: {reason: true, approver_is_not_author: true}")
    found = model.store.gates(model.name, 2)
    assert [result.gate for result in found.failed] == ["reason", "approver_is_not_author"]
    model.tag(2, "promotion.reason", "lower error in June")
    model.tag(2, "promotion.user", "grace")
    trail = len(model.store.history(model.name))
    found = model.store.gates(model.name, 2)
    assert [result.gate for result in found.failed] == ["approver_is_not_author"]
    assert "Nobody knows who made" in (found.refusal_text() or "")
    # a refused promotion leaves the reason to the next one
    assert refused(lambda: model.move(2, "Production")) == found.refusal_text()
    assert model.store.get_model_version(model.name, 2).tags["promotion.reason"] == "lower error in June"
    assert len(model.store.history(model.name)) == trail
    policy("defaults: {reason: true}")
    model.move(2, "Production")
    newest = model.store.history(model.name)[0]
    assert (newest.reason, newest.actor) == ("lower error in June", "grace")
    assert "promotion.reason" not in model.store.get_model_version(model.name, 2).tags


def test_asking__about_a_move_the_rules_forbid__tells_that(model: Model) -> None:
    found = model.store.gates(model.name, 1)
    assert not found.passed
    assert found.results == ()
    assert "already" in (found.refusal_text() or "")
    with pytest.raises(MlflowException, match="not found"):
        model.store.gates(model.name, 9)


def test_broken_policy__refuses_every_promotion_readably__and_nothing_else(
    model: Model, policy: _Policy
) -> None:
    policy("defaults:\n  manifest: true\n  reson: true\n")
    text = refused(lambda: model.move(2, "Production")) or ""
    for part in ("promotion policy is broken", "line 3, defaults.reson", "ai-hub policy check"):
        assert part in text
    assert model.store.gates(model.name, 2).refusal_text() == text
    model.move(1, "Archived")
    assert refused(lambda: model.store.roll_back(model.name)) == text
    policy("")
    model.store.roll_back(model.name)
    model.check()


@pytest.mark.parametrize(
    ("gate", "found"),
    [
        ("not_a_gate", "is not a mlflow_plugins.gates.gate.Gate"),
        ("missing", "cannot be loaded: AttributeError"),
        ("named_otherwise", "calls itself by another name"),
        ("signature", "installed twice, by"),
    ],
)
def test_unusable_gate__is_told(
    model: Model, policy: _Policy, city_gates: Any, gate: str, found: str
) -> None:
    del city_gates
    policy(f"defaults: {{{gate}: true}}")
    assert found in (refused(lambda: model.move(2, "Production")) or "")


def test_production_changed_meanwhile__gates_that_looked_at_it_are_asked_again(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    policy("defaults: {watching: {looks_at_production: true}}")
    seen, entered, release = _blocking_first(city_gates, 2)
    promotion = threading.Thread(target=lambda: model.move(2, "Production"))
    promotion.start()
    assert entered.wait(20)
    model.move(3, "Production")
    release.set()
    promotion.join(20)
    assert [pair for pair in seen if pair[0] == 2] == [(2, 1), (2, 3)]
    assert model.stages() == {1: "Archived", 2: "Production", 3: "Archived"}
    assert _gates_of(model)["watching"]["production"] == 3
    model.check()


def test_production_changed_meanwhile__gates_that_did_not_look_are_not_asked_again(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    policy("defaults: {watching: true}")
    seen, entered, release = _blocking_first(city_gates, 2)
    promotion = threading.Thread(target=lambda: model.move(2, "Production"))
    promotion.start()
    assert entered.wait(20)
    model.move(3, "Production")
    release.set()
    promotion.join(20)
    assert [pair for pair in seen if pair[0] == 2] == [(2, None)]
    assert model.stage(2) == "Production"


def test_reason_changed_meanwhile__is_judged_anew(model: Model, policy: _Policy, city_gates: Any) -> None:
    policy("defaults: {reason: true, watching: true}")
    model.tag(2, "promotion.reason", "lower error in June")
    changed: list[int] = []

    def shorten(version: int, _: int | None) -> None:
        if not changed:
            changed.append(version)
            model.tag(2, "promotion.reason", "hm")

    city_gates.on_check.append(shorten)
    assert "'hm' has 2 characters" in (refused(lambda: model.move(2, "Production")) or "")
    assert model.stage(2) == "Staging"


def test_production_that_never_rests__ends_in_a_readable_refusal(
    model: Model, policy: _Policy, city_gates: Any
) -> None:
    policy("defaults: {watching: {looks_at_production: true}}")
    others = [model.register() for _ in range(6)]

    def meddle(version: int, _: int | None) -> None:
        if version == 2:
            model.move(others.pop(), "Production")

    city_gates.on_check.append(meddle)
    assert "5 times" in (refused(lambda: model.move(2, "Production")) or "")
    assert model.stage(2) == "Staging"
    model.check()


def _blocking_first(
    city_gates: Any, waiting: int
) -> tuple[list[tuple[int, int | None]], threading.Event, threading.Event]:
    """What the gate saw (candidate, production); its first look at `waiting` lasts until released."""
    seen: list[tuple[int, int | None]] = []
    entered, release = threading.Event(), threading.Event()

    def look(version: int, production: int | None) -> None:
        seen.append((version, production))
        if version == waiting and not entered.is_set():
            entered.set()
            assert release.wait(20)

    city_gates.on_check.append(look)
    return seen, entered, release


def test_a_comparison_with_production__opens_the_gate_once_it_is_noted_and_stays_as_it_is(
    model: Model, policy: _Policy
) -> None:
    policy("defaults: {beats_production: true}")
    text = refused(lambda: model.move(2, "Production"))
    assert text is not None
    assert "It was not compared with version 1 (v1.0.0) in Production." in text
    assert f"`ai-hub compare {model.name} --tenant default --version 2 --weeks 26`" in text
    of_this = {"tenant": "default", "model": model.name}
    # what another pair has shown says nothing of this one
    model.tag(2, record_tag(3), record(**of_this, production=stand_in(3)).model_dump_json())
    model.tag(3, record_tag(1), record(**of_this, challenger=stand_in(3)).model_dump_json())
    assert refused(lambda: model.move(2, "Production")) == text
    found = record(**of_this)
    for tag in (record_tag(1), plan_tag(1)):
        model.tag(2, tag, found.model_dump_json())
        model.tag(2, tag, found.model_dump_json())
        for change in (
            lambda tag=tag: model.tag(2, tag, record(**of_this, gain_percent=50).model_dump_json()),
            lambda tag=tag: model.store.delete_model_version_tag(model.name, 2, tag),
        ):
            told = refused(change)
            assert told is not None
            assert "there is one look at two versions" in told
    model.move(2, "Production")
    kept = _gates_of(model)["beats_production"]
    assert kept["comparison"] == found.model_dump(mode="json")
    assert kept["text"] == f"{found}."
    # now another version is in production
    assert "compared with version 2" in str(refused(lambda: model.move(3, "Production")))
    # back in an emergency
    model.move(1, "Production")
    model.check()
