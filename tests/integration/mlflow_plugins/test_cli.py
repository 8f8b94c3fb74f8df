"""`ai-hub promote | rollback | history | models` against the real server."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest
import yaml
from mlflow import MlflowClient

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    _Run = Callable[..., tuple[int, str, str]]

MODEL = "demand-forecast"


@pytest.fixture(scope="module")
def tenant(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tenant whose model has two versions; the first is in Production."""
    name = f"tenant-{secrets.token_hex(4)}"
    registry.ensure_tenant(name)
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}}))
    client = MlflowClient(stack["MLFLOW_TRACKING_URI"], stack["MLFLOW_TRACKING_URI"])
    with registry.tenant_scope(name):
        client.create_registered_model(MODEL)
        experiment = client.create_experiment("demand")
        for mae in (2.0, 1.5):
            run = client.create_run(experiment).info
            client.log_metric(run.run_id, "mae", mae)
            client.log_artifacts(run.run_id, str(folder), "model")
            client.create_model_version(MODEL, f"{run.artifact_uri}/model", run.run_id)
    registry.promote(name, MODEL, 1)
    return name


def test_models__lists_versions_with_metrics(tenant: str, run: _Run) -> None:
    status, out, _ = run("models", "--tenant", tenant)
    assert status == 0
    for text in (MODEL, "v1.0.0", "Production", "v1.0.1", "Staging", "mae 1.5"):
        assert text in out
    _, out, _ = run("models", "--tenant", tenant, "--json")
    found = [(row["version"], row["metrics"]) for row in json.loads(out)]
    assert found == [(2, {"mae": 1.5}), (1, {"mae": 2.0})]
    _, out, _ = run("models", "--tenant", tenant, "--limit", "1")
    assert ("v1.0.1" in out, "v1.0.0" in out, "--limit shows more" in out) == (True, False, True)
    _, out, _ = run("models", "--tenant", tenant, "--limit", "2")
    assert ("v1.0.1" in out, "v1.0.0" in out, "--limit shows more" in out) == (True, True, False)
    _, out, _ = run("models", "--tenant", tenant, "--limit", "1", "--json")
    assert [row["version"] for row in json.loads(out)] == [2]


def test_promote__refused__prints_the_servers_text_and_fails(tenant: str, run: _Run) -> None:
    status, out, err = run("promote", MODEL, "--tenant", tenant, "--version", "1", "--stage", "staging")
    assert (status, out) == (1, "")
    assert "Production → Staging is not allowed" in err
    status, _, err = run("promote", MODEL, "--tenant", tenant, "--version", "7")
    assert status == 2
    assert "(v1.0.0, Production)" in err
    assert "(v1.0.1, Staging)" in err
    status, _, err = run("promote", MODEL, "--tenant", tenant, "--version", "2", "--stage", "retired")
    assert status == 2
    assert "retired" in err


def test_promote_history_rollback__tell_who_moved(tenant: str, run: _Run) -> None:
    status, out, _ = run("promote", MODEL, "--tenant", tenant, "--reason", "lower error")
    assert status == 0
    assert out.splitlines() == [
        f"{MODEL} 2 (v1.0.1): Staging → Production",
        f"{MODEL} 1 (v1.0.0): Production → Archived",
    ]
    status, out, _ = run("rollback", MODEL, "--tenant", tenant, "--reason", "drift", "--json")
    move = json.loads(out)
    assert (status, move["own"]["version"], move["displaced"][0]["version"]) == (0, 1, 2)
    status, out, _ = run("history", MODEL, "--tenant", tenant)
    assert status == 0
    assert "drift" in out
    assert "lower error" in out
    _, out, _ = run("history", MODEL, "--tenant", tenant, "--version", "v1.0.1", "--limit", "1", "--json")
    (row,) = json.loads(out)
    assert (row["from_stage"], row["to_stage"], row["reason"]) == (
        "Production", "Archived", "Displaced from Production by version 1.",
    )  # fmt: skip


def test_production__tells_what_was_there_at_a_time(tenant: str, run: _Run) -> None:
    status, out, _ = run("production", MODEL, "--tenant", tenant)
    assert status == 0
    assert f"{MODEL} 1 (v1.0.0), in Production since 20" in out
    assert "(claimed): drift" in out
    _, out, _ = run("history", MODEL, "--tenant", tenant, "--version", "2", "--json")
    promoted = next(row["at"] for row in json.loads(out) if row["to_stage"] == "Production")
    _, out, _ = run("production", MODEL, "--tenant", tenant, "--at", promoted, "--json")
    assert (json.loads(out)["version"], json.loads(out)["reason"]) == (2, "lower error")
    status, _, err = run("production", MODEL, "--tenant", tenant, "--at", "2020-01-01")
    assert status == 2
    assert "was in Production at 2020-01-01 00:00:00 UTC" in err
    status, _, err = run("production", MODEL, "--tenant", tenant, "--at", "yesterday")
    assert status == 2
    assert "--at 'yesterday' is not a time" in err


def test_delete__says_which_files_went(tenant: str, run: _Run) -> None:
    command = ("delete", MODEL, "--tenant", tenant, "--version", "v1.0.0")
    status, _, err = run(*command)
    assert status == 1
    assert "only archived versions can be deleted" in err
    status, out, _ = run(*command, "--force", "--reason", "bad")
    assert status == 0
    assert f"{tenant}/{MODEL}/v1.0.0/manifest.json" in out
    _, out, _ = run("history", MODEL, "--tenant", tenant, "--limit", "1", "--json")
    (row,) = json.loads(out)
    assert (row["to_stage"], row["reason"]) == ("Deleted", "bad")


def test_unknown_tenant__is_told(run: _Run, stack: dict[str, str]) -> None:
    del stack
    status, _, err = run("models", "--tenant", "nobody-at-all")
    assert status == 2
    assert "Workspace 'nobody-at-all' not found" in err
