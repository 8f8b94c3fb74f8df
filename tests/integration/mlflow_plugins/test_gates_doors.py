"""Gates at every door of a real server: stage menu, aliases, REST, Python, command line."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from mlflow import MlflowClient
from support import registry_servers

from ai_hub import registry
from ai_hub.errors import ConflictError
from mlflow_plugins.artifacts.s3 import s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Stack

    _Run = Callable[..., tuple[int, str, str]]

MODEL = "demand-forecast"
COLUMNS = json.dumps([{"name": "lag_1h", "type": "double"}])
POLICY = """
defaults:
  reason: {min_length: 10}
  signature: true
  not_worse_than_production: {metric: mae, better: lower, max_worse_percent: 10}
"""


@dataclass
class City:
    """A tenant of a server whose policy is in `policy`."""

    url: str
    tenant: str
    client: MlflowClient
    experiment: str
    folder: Path
    policy: Path

    def register(self, mae: float, *, signature: bool = True) -> int:
        """Register a version whose run recorded `mae`; returns its number."""
        description: dict[str, Any] = {"flavors": {"lightgbm": {}}}
        if signature:
            description["signature"] = {"inputs": COLUMNS, "outputs": COLUMNS}
        self.folder.mkdir(exist_ok=True)
        (self.folder / "MLmodel").write_text(yaml.safe_dump(description))
        with registry.tenant_scope(self.tenant):
            run = self.client.create_run(self.experiment).info
            self.client.log_metric(run.run_id, "mae", mae)
            self.client.log_artifacts(run.run_id, str(self.folder), "model")
            return int(
                self.client.create_model_version(MODEL, f"{run.artifact_uri}/model", run.run_id).version
            )

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """A request in the tenant's workspace."""
        headers = {"X-MLFLOW-WORKSPACE": self.tenant}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, **arguments)

    def stage_menu(self, version: int) -> requests.Response:
        """What MLflow's stage menu sends."""
        body = {
            "name": MODEL,
            "version": str(version),
            "stage": "Production",
            "archive_existing_versions": True,
        }
        return self.call("POST", "/api/2.0/mlflow/model-versions/transition-stage", json=body)

    def alias_dialog(self, version: int) -> requests.Response:
        """What MLflow's alias dialog sends."""
        body = {"name": MODEL, "alias": "production", "version": str(version)}
        return self.call("POST", "/api/2.0/mlflow/registered-models/alias", json=body)

    def tag(self, version: int, reason: str) -> None:
        """Give the reason as a page can."""
        with registry.tenant_scope(self.tenant):
            self.client.set_model_version_tag(MODEL, str(version), "promotion.reason", reason)


@pytest.fixture(scope="module")
def server(
    servers: Stack, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Address of a server, and its policy file."""
    folder = tmp_path_factory.mktemp("gates")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    policy = folder / "policy.yaml"
    stack, settings = servers.start("s3"), {"PROMOTION_POLICY_PATH": str(policy)}
    with registry_servers.running(
        f"sqlite:///{folder / 'mlflow.db'}", stack, folder, settings=settings
    ) as running:
        yield running.url, policy


@pytest.fixture
def city(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> City:
    """A tenant with a good version (1) in Production under `POLICY`."""
    url, policy = server
    policy.write_text(POLICY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    tenant = f"tenant-{secrets.token_hex(4)}"
    registry.ensure_tenant(tenant)
    client = MlflowClient(url, url)
    with registry.tenant_scope(tenant):
        client.create_registered_model(MODEL)
        experiment = client.create_experiment("demand")
    made = City(url, tenant, client, experiment, tmp_path / "model", policy)
    made.register(1.0)
    registry.promote(tenant, MODEL, 1, reason="the first one")
    return made


def test_refusal__at_every_door__names_each_gate_what_was_found_and_the_way_out(
    city: City, run: _Run
) -> None:
    version = city.register(1.2, signature=False)
    path = f"/ai-hub/api/models/{MODEL}/versions/{version}"
    texts = []
    for answer in (
        city.stage_menu(version),
        city.alias_dialog(version),
        city.call("POST", f"{path}/stage", json={"stage": "Production"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["error_code"] == "RESOURCE_CONFLICT"
        texts.append(answer.json()["message"])
    with pytest.raises(ConflictError) as caught:
        registry.promote(city.tenant, MODEL, version)
    texts.append(caught.value.message)
    status, out, err = run("promote", MODEL, "--tenant", city.tenant, "--version", str(version))
    assert (status, out) == (1, "")
    texts.append(err.partition("Error: ")[2].rstrip("\n"))
    refusal = (
        f"Version 2 (v2.0.0) of model {MODEL} stays in Staging: 3 of 4 gates to Production refuse it.\n"
        "• reason: No reason was given. Promote with --reason or the field reason; in MLflow's pages, "
        "set the version's tag promotion.reason first.\n"
        "• signature: It has no signature. Log the model with "
        "signature=mlflow.models.infer_signature(inputs, predictions), and register it anew.\n"
        "• not_worse_than_production: mae is 1.2, that of version 1 (v1.0.0) in Production is 1: "
        "20 % worse, and 10 % is allowed (lower is better). "
        "Promote a better version, or have the policy allow more for this model."
    )
    assert texts == [refusal] * 5
    asked = city.call("GET", f"{path}/gates")
    assert asked.status_code == 200
    assert asked.json()["text"] == refusal
    assert registry.production_version(city.tenant, MODEL).version == 1


def test_asking__by_rest_python_and_command_line__then_promoting(city: City, run: _Run) -> None:
    version = city.register(1.05)
    found = registry.gates(city.tenant, MODEL)
    assert [result.gate for result in found.failed] == ["reason"]
    command = ("gates", MODEL, "--tenant", city.tenant)
    status, out, _ = run(*command)
    assert status == 1
    for text in (
        "demand-forecast 2 (v1.0.1)",
        "from Staging to Production",
        "No reason was given",
        "5 % worse",
    ):
        assert text in out
    status, out, _ = run(*command, "--version", "v1.0.1", "--reason", "retrained on June", "--json")
    assert status == 0
    answer = json.loads(out)
    assert (answer["passed"], answer["displaces"], answer["text"]) == (True, 1, None)
    assert registry.Assessment.from_json(answer) == registry.gates(
        city.tenant, MODEL, version, reason="retrained on June"
    )
    city.tag(version, "retrained on June")
    assert registry.gates(city.tenant, MODEL).passed
    assert city.alias_dialog(version).status_code == 200
    newest = registry.history(city.tenant, MODEL, limit=1)[0]
    assert newest.reason == "retrained on June"
    gates = newest.evidence["gates"]
    assert set(gates) == {"manifest", "reason", "signature", "not_worse_than_production"}
    assert gates["manifest"]["file_count"] == 4
    assert gates["not_worse_than_production"]["worse_percent"] == pytest.approx(5)
    assert len(newest.evidence["policy"]["sha256"]) == 64
    status, out, _ = run(
        "gates", MODEL, "--tenant", city.tenant, "--version", "1", "--reason", "drift since noon"
    )
    assert status == 0
    assert "from Archived back into Production" in out
    assert "Not checked for a rollback: signature, not_worse_than_production." in out
    status, out, _ = run("gates", MODEL, "--tenant", city.tenant, "--version", "2")
    assert status == 1
    assert "It is in Production already" in out


def test_metrics__are_those_kept_at_registration__whatever_the_run_says_now(city: City) -> None:
    version = city.register(1.5)
    with registry.tenant_scope(city.tenant):
        run_id = city.client.get_model_version(MODEL, str(version)).run_id
        city.client.log_metric(run_id, "mae", 0.1)
    found = registry.gates(city.tenant, MODEL, version, reason="retrained on June")
    assert [result.evidence["value"] for result in found.failed] == [1.5]
    # nor can they be improved in the bucket, even under a policy that does not check every file
    city.policy.write_text(f"{POLICY}  manifest: false\n")
    key = f"{city.tenant}/{MODEL}/v1.0.1/metrics.json"
    s3_client().put_object(Bucket="ml-models", Key=key, Body=b'{"mae": 0.1}')
    found = registry.gates(city.tenant, MODEL, version, reason="retrained on June")
    (refusal,) = found.failed
    assert refusal.gate == "not_worse_than_production"
    assert "metrics.json" in refusal.text
    assert "was changed" in refusal.text


def test_policy__that_changes__counts_at_once__and_a_broken_one_refuses(city: City) -> None:
    version = city.register(1.0)
    assert city.stage_menu(version).status_code == 409
    city.policy.write_text(
        f"defaults: {{reason: true}}\ntenants: {{{city.tenant}: {{gates: {{reason: fals}}}}}}\n"
    )
    answer = city.stage_menu(version)
    assert answer.status_code == 409
    assert f"line 2, tenants.{city.tenant}.gates.reason" in answer.json()["message"]
    city.policy.unlink()
    assert "No such file" in city.stage_menu(version).json()["message"]
    city.policy.write_text(
        f"defaults: {{reason: true}}\ntenants: {{{city.tenant}: {{gates: {{reason: false}}}}}}\n"
    )
    assert city.stage_menu(version).status_code == 200
