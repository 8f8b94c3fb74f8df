from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_feast__is_the_one_of_this_project_and_of_feast() -> None:
    program = Path(sys.executable).with_name("feast")
    # Feast installs one of this name, too
    assert "ai_hub.cli.feast_main" in program.read_text()
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    assert "0.67.0" in done.stdout
