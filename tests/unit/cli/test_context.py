"""Commands of one call share one settings object; the next call reads the environment anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from ai_hub.cli import context
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_settings__are_read_once_in_a_call_and_anew_in_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path))
    for bucket in ("one", "other"):
        monkeypatch.setenv("MODEL_STORAGE_BUCKET", bucket)
        done = CliRunner().invoke(app, ["env", "--json"])
        assert json.loads(done.stdout)["MODEL_STORAGE_BUCKET"] == bucket
        assert context.settings() is context.settings()
        assert context.settings().model_storage_bucket == bucket
