"""`ai-hub policy`: what is in force, and where a file is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ai_hub import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    _Run = Callable[..., tuple[int, str, str]]

POLICY = """
defaults:
  reason: {min_length: 12}
tenants:
  city-works:
    gates: {signature: true}
    models:
      demand: {reason: false}
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> _Run:
    """Run `ai-hub` in this process: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROMOTION_POLICY_PATH", raising=False)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "state"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ai-hub", "policy", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        status = exit_.value.code
        return (status if isinstance(status, int) else 0), printed.out, printed.err

    return run


def test_check__right_or_wrong(run: _Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    status, out, _ = run("check", str(path))
    assert (status, out) == (0, f"{path} is right. It has rules of its own for 1 tenants and 1 models.\n")
    path.write_text(POLICY.replace("signature", "signatur") + "      supply: {reason: {min_length: -1}}\n")
    status, out, err = run("check", str(path))
    assert (status, out) == (2, "")
    assert f"{path} cannot be used:\nline 6, tenants.city-works.gates.signatur: There is no gate" in err
    assert "\nline 9, tenants.city-works.models.supply.reason.min_length: Input should be" in err


def test_show__what_is_in_force__for_whom__and_who_says_so(
    run: _Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = run("show")
    assert status == 0
    assert out.startswith("Policy: built-in\n")
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(path))
    status, out, _ = run("show", "--tenant", "city-works", "--model", "demand", "--json")
    assert status == 0
    shown = json.loads(out)
    assert shown["source"] == str(path)
    gates = {row.pop("gate"): row for row in shown["gates"]}
    assert {name for name, row in gates.items() if row["on"]} == {"manifest", "signature"}
    assert gates["manifest"]["set_by"] == "built-in"
    assert gates["signature"] == {
        "on": True,
        "on_rollback": False,
        "set_by": "tenants.city-works.gates",
        "settings": {"outputs": True},
    }
    assert gates["reason"]["set_by"] == "tenants.city-works.models.demand"
    status, out, _ = run("show", str(path))
    assert "min_length: 12" in out


def test_gates__describes_each(run: _Run) -> None:
    status, out, _ = run("gates")
    assert status == 0
    assert "\nnot_worse_than_production: A metric is not worse" in out
    assert "\n    better (required): which direction is better" in out
