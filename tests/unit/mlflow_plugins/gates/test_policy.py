"""The policy file: what its levels mean together, and that no mistake in it goes unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_plugins.gates import policy
from mlflow_plugins.gates.builtin import ManifestGate, ReasonGate
from mlflow_plugins.gates.policy import BUILT_IN, PolicyError, parse

if TYPE_CHECKING:
    from pathlib import Path


def _mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(text.encode(), "policy.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file__only_the_manifest_is_checked() -> None:
    assert BUILT_IN.gates("city-works", "demand") == (ManifestGate(),)
    assert parse(b"", "policy.yaml").gates("city-works", "demand") == (ManifestGate(),)


def test_levels__the_nearest_decides__and_its_settings_win() -> None:
    policy = parse(
        b"""
        defaults:
          reason: {min_length: 30}
        tenants:
          city-works:
            gates: {reason: false, manifest: {required: true}}
            models:
              demand: {reason: true}
              supply: {reason: {min_length: 5}, manifest: false}
        """,
        "policy.yaml",
    )
    assert policy.gates("other", "demand") == (ManifestGate(), ReasonGate(min_length=30))
    assert policy.gates("city-works", "other") == (ManifestGate(required=True),)
    assert policy.gates("city-works", "demand") == (ManifestGate(required=True), ReasonGate(min_length=30))
    assert policy.gates("city-works", "supply") == (ReasonGate(min_length=5),)
    assert (
        policy.rules("city-works", "supply")["reason"].decided_by.label == "tenants.city-works.models.supply"
    )


_RULE = (
    st.none()
    | st.booleans()
    | st.fixed_dictionaries({}, optional={"min": st.integers(1, 3), "max": st.just(9)})
)


@given(st.lists(_RULE, min_size=3, max_size=3))
def test_merging__is_that_of_reading_the_levels_from_the_nearest_up(rules: list[Any]) -> None:
    written = [None if rule is None else _settings(rule) for rule in rules]
    levels = [{} if rule is None else {"required_metrics": rule} for rule in written]
    document = {
        "defaults": levels[0],
        "tenants": {"t1": {"gates": levels[1], "models": {"m": levels[2]}}},
    }
    on = next((rule is not False for rule in reversed(written) if rule is not None), False)
    settings = next((rule for rule in reversed(written) if isinstance(rule, dict) and rule), None)
    try:
        policy = parse(yaml.safe_dump(document).encode(), "policy.yaml")
    except PolicyError:
        # some level has it on, and none above says what it needs
        assert _some_level_lacks_metrics(written)
        return
    gates = [gate for gate in policy.gates("t1", "m") if gate.name == "required_metrics"]
    assert bool(gates) == on
    if on:
        assert settings
        (gate,) = gates
        assert gate.model_dump()["metrics"]["mae"] == settings["metrics"]["mae"]


def _settings(rule: Any) -> Any:
    if not isinstance(rule, dict) or not rule:
        return rule
    return {"metrics": {"mae": {"min": None, "max": None, **rule}}}


def _some_level_lacks_metrics(written: list[Any]) -> bool:
    known = on = False
    for rule in written:
        if rule is not None:
            on = rule is not False
            known = known or bool(isinstance(rule, dict) and rule)
        if on and not known:
            return True
    return False


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        (
            "defaults:\n  reson: true",
            ["line 2, defaults.reson: There is no gate 'reson'. Installed: approver"],
        ),
        ("defaults:\n  reson: false", ["line 2, defaults.reson: There is no gate"]),
        (
            "defaults:\n  reason: {min_length: 0}",
            ["line 2, defaults.reason.min_length: Input should be greater"],
        ),
        (
            "defaults:\n  reason: {length: 3}",
            ["line 2, defaults.reason.length: there is no such setting; reason"],
        ),
        ("defaults:\n  reason: 'yes'", ["line 2, defaults.reason: "]),
        ("defaults:\n  reason:", ["line 2, defaults.reason: "]),
        ("defaults:\n  reason: [1]", ["line 2, defaults.reason: "]),
        ("default:\n  reason: true", ["line 1, default: "]),
        ("- reason", ["Input should be"]),
        ("defaults: {\n", ["line 2: this is not YAML"]),
        ("defaults: !!python/object:os.system {}", ["line 1: this is not YAML"]),
        ("a: 2026-13-45", ["this is not YAML"]),
        (b"\xff\xfe\x00".decode("latin-1") + "\x00", ["this is not YAML"]),
        (
            "defaults:\n  reason: true\n\n  reason: false",
            ["line 4, defaults.reason: this key is there twice"],
        ),
        ("&a defaults: &b\n  reason: *b", ["line 2, defaults.reason.reason: there is no such setting"]),
        ("tenants:\n  A: {}", ["line 2, tenants.A: no tenant can have this name"]),
        ("tenants:\n  a1:\n    models: {'b c': {}}", ["line 3, tenants.a1.models.b c: Model name"]),
        ("tenants:\n  a1:\n    reason: true", ["line 3, tenants.a1.reason: "]),
        (
            "defaults:\n  not_worse_than_production: {metric: mae}",
            ["line 2, defaults.not_worse_than_production.better: Field required"],
        ),
        (
            # the place is that of the level that says it
            "defaults:\n  reason: false\ntenants:\n  a1:\n    gates: {reason: {min_length: x}}\n",
            ["line 5, tenants.a1.gates.reason.min_length: "],
        ),
        (
            "defaults:\n  required_metrics: {metrics: {mae: {max: low}}}\n  reson: true",
            ["line 2, defaults.required_metrics.metrics.mae.max: ", "line 3, defaults.reson: "],
        ),
    ],
)
def test_mistake__is_named_with_its_place(text: str, mistakes: list[str]) -> None:
    found = _mistakes(text)
    assert len(found) == len(mistakes), found
    for problem, expected in zip(found, mistakes, strict=True):
        assert expected in problem


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_content__is_a_policy_or_a_readable_mistake(content: bytes) -> None:
    try:
        parse(content, "policy.yaml").gates("t1", "m")
    except PolicyError as error:
        problems = error.problems
    else:
        return
    assert all(problem.text for problem in problems)


def test_current__follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "no-stack"))
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(path))
    with pytest.raises(PolicyError, match="No such file"):
        policy.current()
    path.write_text("defaults: {reason: true}")
    first = policy.current()
    assert ReasonGate() in first.gates("t1", "m")
    path.write_text("defaults: {reason: fals}")
    with pytest.raises(PolicyError, match="line 1"):
        policy.current()
    path.write_text("defaults: {}")
    assert policy.current().gates("t1", "m") == (ManifestGate(),)
    assert policy.current().origin()["sha256"] not in {None, first.origin()["sha256"]}
    path.unlink()
    path.mkdir()
    with pytest.raises(PolicyError, match="directory"):
        policy.current()
    monkeypatch.delenv("PROMOTION_POLICY_PATH")
    assert policy.current() is BUILT_IN
