"""The guide and the shipped policy are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from support.gate_candidates import candidate

from mlflow_plugins.gates.policy import gate_class, gate_names, load, parse

ROOT = Path(__file__).resolve().parents[4]
GUIDE = (ROOT / "docs/promotion-gates.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_table__has_every_gate_with_its_settings() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", GUIDE, re.MULTILINE))
    assert sorted(rows) == gate_names()
    for name, row in rows.items():
        gate = gate_class(name)
        assert (
            set(re.findall(r"`(\w+)`(?: \(|[,:]|$)", row.split("|")[1].strip())) >= gate.model_fields.keys()
        )
        assert row.endswith("| yes") == gate.on_rollback


def test_policy__of_the_guide__is_right() -> None:
    (text,) = _blocks("yaml")
    policy = parse(text.encode(), "guide")
    gates = {gate.name: gate for gate in policy.gates("city-works", "demand-forecast")}
    assert list(gates) == [
        "manifest",
        "reason",
        "signature",
        "approver_is_not_author",
        "not_worse_than_production",
    ]
    assert gates["reason"].model_dump() == {"min_length": 40}


def test_gate__of_the_guide__works() -> None:
    made: dict[str, Any] = {}
    exec(_blocks("python")[0], made)  # noqa: S102 - our own guide
    gate = made["SmallGate"](max_features=1)
    columns = [{"name": "lag_1h"}, {"name": "lag_24h"}]
    assert gate.check(candidate(metadata={"signature": {"inputs": columns[:1]}})).passed
    assert gate.check(candidate(metadata={"signature": {"inputs": columns}})).text == (
        "It takes 2 features. Train one with 1."
    )


def test_evidence__is_json() -> None:
    assert json.loads(_blocks("json")[0])["policy"]["sha256"]


def test_shipped_policy__is_right__and_guards_the_demos_tenants_only() -> None:
    policy = load(ROOT / "policy/promotion_policy.yaml")
    assert [gate.name for gate in policy.gates("city-works", "demand")] == ["manifest"]
    for tenant in ("illinois", "uk-home"):
        assert len(policy.gates(tenant, "demand-forecast-gas")) == 6
