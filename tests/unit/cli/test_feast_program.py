from __future__ import annotations

import os
import sys
from pathlib import Path

from support import forked


def test_feast__is_the_one_of_this_project_and_of_feast(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("feast")
    # Feast installs one of this name, too
    assert "ai_hub.cli.feast_main" in program.read_text()
    done = forked.run(["feast", "version"], os.environ, tmp_path)
    assert "0.67.0" in done.stdout
