from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_plugins.settings import current_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_current_settings__are_read_anew_only_after_a_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AI_HUB_DELEGATES", raising=False)
    first = current_settings()
    assert (first.ai_hub_delegates, current_settings()) == ("", first)
    assert current_settings() is first
    (tmp_path / ".env").write_text("AI_HUB_DELEGATES=service\n")
    assert current_settings().ai_hub_delegates == "service"
    (tmp_path / ".env").write_text("AI_HUB_DELEGATES=another-one\n")
    assert current_settings().ai_hub_delegates == "another-one"
    monkeypatch.setenv("ai_hub_delegates", "third")  # the environment wins, in any case
    assert current_settings().ai_hub_delegates == "third"
    monkeypatch.delenv("ai_hub_delegates")
    (tmp_path / ".env").unlink()
    assert current_settings().ai_hub_delegates == ""
