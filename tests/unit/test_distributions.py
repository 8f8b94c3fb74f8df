"""The plugin packages are distributions of their own, which need nothing else of the project."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pytest
from support.distributions import ROOT, build_wheel

import ai_hub

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {"feast_plugins", "mlflow_plugins"}
#: Whatever else is installed, these modules find nothing of the rest of the project. MLflow's login is
#: configured by variables when it is imported.
ALONE = """
import os, sys, warnings
sys.path = [{wheel!r}, *(path for path in sys.path if path != {root!r})]
sys.modules |= dict.fromkeys({others!r})
warnings.simplefilter("ignore")
import importlib
for name in {modules!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({wheel!r}), module.__file__
"""


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_wheel__has_every_file_and_needs_nothing_else_of_the_project(package: str, tmp_path: Path) -> None:
    wheel = build_wheel(package, tmp_path)
    source = tmp_path / package
    expected = {
        path.relative_to(tmp_path).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.name != "pyproject.toml"
    }
    assert {name for name in ZipFile(wheel).namelist() if name.startswith(f"{package}/")} == expected
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in expected
        if name.endswith(".py")
    )
    others = ["ai_hub", *(PACKAGES - {package})]
    script = ALONE.format(wheel=str(wheel), root=str(ROOT), others=others, modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_distribution__asks_for_what_the_whole_project_does(package: str) -> None:
    whole, part = _project("."), _project(package)
    server = {*whole["dependencies"], *whole["optional-dependencies"]["server"]}
    assert set(part["dependencies"]) <= server
    assert part["version"] == ai_hub.__version__
    assert part["requires-python"] == whole["requires-python"]


def test_entry_points_of_mlflow_plugins__are_all_of_its_own() -> None:
    def points(folder: str) -> dict[str, dict[str, str]]:
        groups: dict[str, dict[str, str]] = _project(folder)["entry-points"]
        return {
            group: own
            for group, named in groups.items()
            if (own := {name: at for name, at in named.items() if at.startswith("mlflow_plugins.")})
        }

    assert points("mlflow_plugins") == points(".")


def _project(folder: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return project
