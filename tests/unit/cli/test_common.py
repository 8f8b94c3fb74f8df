"""What commands share: a console that shows names as they are, and settings read once in a call."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ai_hub.cli
from ai_hub.access import api_keys
from ai_hub.access.api_keys import ApiKey, new_key
from ai_hub.cli import common
from ai_hub.cli.main import app

NAMES = ("web [v2]", "x[/b]", "[bold]", "a:cat:b", r"c:\[red]")


@pytest.fixture(params=NAMES)
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ApiKey:
    made = ApiKey("a" * 12, request.param, ["ours"], ["x"], "me", datetime.now(UTC), None, None, "active")
    monkeypatch.setattr(api_keys, "create", lambda *_, **__: (made, new_key()))
    monkeypatch.setattr(api_keys, "keys", lambda *_, **__: [made])
    return made


@pytest.mark.parametrize(
    "command", [("create", "x", "-t", "ours", "--role", "viewer"), ("list",)], ids=["create", "list"]
)
def test_keys__name_that_looks_like_markup__is_shown(key: ApiKey, command: tuple[str, ...]) -> None:
    said = CliRunner().invoke(app, ["keys", *command])
    assert said.exit_code == 0, said.exception
    assert key.name in said.output


def test_policy__file_that_looks_like_markup__is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMOTION_POLICY_PATH", "ours [v2].yaml")
    Path("ours [v2].yaml").write_text("defaults:\n  reason: {min_length: 12}\n")
    said = CliRunner().invoke(app, ["policy", "show", "--tenant", "ours"])
    assert said.exit_code == 0, said.exception
    assert "ours [v2].yaml" in said.output


def test_commands__print_on_no_other_console() -> None:
    here = Path(common.__file__)
    others = [path for path in Path(ai_hub.cli.__file__).parent.glob("*.py") if path != here]
    assert [path.name for path in others if re.search(r"(?<!plain\.)\bConsole\(", path.read_text())] == []


def test_settings__are_read_once_in_a_call_and_anew_in_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path))
    for bucket in ("one", "other"):
        monkeypatch.setenv("MODEL_STORAGE_BUCKET", bucket)
        done = CliRunner().invoke(app, ["env", "--json"])
        assert json.loads(done.stdout)["MODEL_STORAGE_BUCKET"] == bucket
        assert common.settings() is common.settings()
        assert common.settings().model_storage_bucket == bucket
