"""The version is the same wherever it is told."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ai_hub import __version__

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r'image\.version="(.+?)"'),
        ("docker-compose.yml", r"image: ai-hub:(\S+)"),
        ("feast_plugins/pyproject.toml", r'^version = "(.+?)"'),
    ],
)
def test_version__is_that_of_the_package(file: str, pattern: str) -> None:
    assert set(re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)) == {__version__}


def test_version__is_told_by_the_command_and_the_distribution() -> None:
    program = Path(sys.executable).with_name("ai-hub")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == f"ai-hub {__version__}\n"
    assert version("ai-hub") == __version__


def test_changelog__has_a_dated_section_for_the_version() -> None:
    assert re.search(
        rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
