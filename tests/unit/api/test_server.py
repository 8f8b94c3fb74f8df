"""What a service that was killed leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from ai_hub.api import server

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_metrics_folders_of_dead_services__are_removed__no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in server._METRICS_VARIABLES:
        monkeypatch.setenv(name, "")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = tmp_path / f"{server._prefix()}{process.pid}-abc"
    kept = [
        tmp_path / f"{server._prefix()}{os.getpid()}-abc",
        tmp_path / f"ai-hub-metrics-other-machine-{process.pid}-abc",
        tmp_path / f"{server._prefix()}text",
    ]
    for folder in (dead, *kept):
        folder.mkdir()
        (folder / "counter.db").touch()
    with server._metrics_folder():
        assert not dead.exists()
        assert all((folder / "counter.db").exists() for folder in kept)
        assert len(list(tmp_path.iterdir())) == len(kept) + 1
    assert set(tmp_path.iterdir()) == set(kept)
