from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import ai_hub

ROOT = Path(__file__).parents[3]
#: Whatever else is installed, these modules find nothing of the rest of the project.
ALONE = """
import sys
sys.path = [{wheel!r}, *(path for path in sys.path if path != {root!r})]
sys.modules["ai_hub"] = sys.modules["mlflow_plugins"] = None
import importlib
for name in {modules!r}:
    found = importlib.import_module(name)
    assert found.__file__.startswith({wheel!r}), found.__file__
"""


def test_wheel__has_every_module_and_needs_nothing_else_of_the_project(tmp_path: Path) -> None:
    source = tmp_path / "feast_plugins"
    shutil.copytree(ROOT / "feast_plugins", source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True,
        cwd=source,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    expected = {path.relative_to(tmp_path).as_posix() for path in source.rglob("*.py")}
    assert {name for name in ZipFile(wheel).namelist() if name.endswith(".py")} == expected
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in expected
    )
    script = ALONE.format(wheel=str(wheel), root=str(ROOT), modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr


def test_dependencies__are_those_of_the_whole_project() -> None:
    projects = [
        tomllib.loads((ROOT / path).read_text())
        for path in ("pyproject.toml", "feast_plugins/pyproject.toml")
    ]
    whole, part = (project["project"] for project in projects)
    server = {*whole["dependencies"], *whole["optional-dependencies"]["server"]}
    assert set(part["dependencies"]) <= server
    assert part["version"] == ai_hub.__version__
