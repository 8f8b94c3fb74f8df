"""Wheels of the two plugin packages, which install alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheel(package: str, folder: Path) -> Path:
    """Build `package` from a copy in `folder`; returns the wheel."""
    source = folder / package
    shutil.copytree(ROOT / package, source, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
