"""`make lint` fails where an import between packages is turned round, and where a function is dead."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ai_hub", "feast_plugins", "mlflow_plugins")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A target of the Makefile on the code in `folder`, with the programs installed here."""
    command = ["make", *arguments, f"BIN={Path(sys.executable).parent}", "STAMP=installed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "installed").touch()
    return tmp_path


#: By module that is not there: a line which imports from above it, and what is said of it.
TURNED_ROUND = {
    "ai_hub/jobs/planted.py": ("from ai_hub.api import app", "ai_hub.jobs.planted -> ai_hub.api.app"),
    "ai_hub/api/planted.py": ("import ai_hub.dev.control", "ai_hub.api.planted -> ai_hub.dev.control"),
    "feast_plugins/planted.py": ("import ai_hub.errors", "feast_plugins.planted -> ai_hub.errors"),
    "mlflow_plugins/planted.py": (
        "import feast_plugins.errors",
        "mlflow_plugins.planted -> feast_plugins.errors",
    ),
}


def test_imports__turned_round__are_named(copy: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module, (line, _) in TURNED_ROUND.items():
        (copy / module).write_text(f"{line}\n")
    done = make(copy, "imports")
    assert done.returncode != 0
    for _, arrow in TURNED_ROUND.values():
        assert arrow in " ".join(done.stdout.split())


#: What nothing calls, by what it is.
DEAD = {
    "function": "def planted() -> None: ...",
    "class": "class Planted: ...",
    "method": "class Used:\n    def planted(self) -> None: ...\n\n\nUsed()",
}


def test_dead_code__is_named_until_it_is_used(copy: Path) -> None:
    for folder in (*PACKAGES, "feature_repo", "benchmarks", "tests"):
        (copy / folder).mkdir()
        (copy / folder / "empty.py").touch()
    for kind, code in DEAD.items():
        (copy / f"ai_hub/{kind}.py").write_text(f"{code}\n")
    done = make(copy, "dead")
    assert done.returncode != 0
    for kind in DEAD:
        assert f"unused {kind}" in done.stdout
    (copy / "tests/test_it.py").write_text("planted, Planted, Used().planted\n")
    assert make(copy, "dead").returncode == 0


def test_lint__runs_every_check(copy: Path) -> None:
    planned = make(copy, "lint", "--dry-run").stdout
    for program in ("ruff check", "ruff format --check", "mypy", "lint-imports", "vulture"):
        assert f"/{program}" in planned
