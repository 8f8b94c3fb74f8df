"""docs/architecture.md names files and settings that exist."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ai_hub.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/architecture.md").read_text()
TABLE = TEXT.partition("## Where to change what")[2].partition("\n## ")[0]
GROUPS = {"ai_hub.promotion_gates", "ai_hub.estimators"}
PATHS = sorted(set(re.findall(r"`([\w./-]*[./][\w./-]+)`", TABLE)) - GROUPS)


def test_table__has_the_changes_that_come_up() -> None:
    first = re.findall(r"^\| ([^|]+) \|", TABLE, re.MULTILINE)
    for change in ("gate", "feature", "exports", "error text", "requests a caller may send"):
        assert any(change in cell for cell in first), change


@pytest.mark.parametrize("path", PATHS)
def test_path__exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_settings__exist() -> None:
    names = re.findall(r"`AI_HUB_API_(\w+)`", TABLE)
    assert len(names) == 2
    assert {name.lower() for name in names} <= set(ServiceSettings.model_fields)


def test_gates__are_of_the_module_that_is_named() -> None:
    gates = entry_points(group="ai_hub.promotion_gates")
    assert {gate.module for gate in gates if gate.module.startswith("mlflow_plugins")} == {
        "mlflow_plugins.gates.builtin"
    }
