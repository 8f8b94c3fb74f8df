"""A tenant of a running registry, seen through MLflow's own REST calls and client."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests
import yaml
from mlflow import MlflowClient

from ai_hub import registry

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "demand-forecast"


@dataclass
class Tenant:
    """A tenant with one experiment, seen through plain HTTP and MLflow's own client."""

    name: str
    url: str
    client: MlflowClient
    experiment: str
    #: run and address of what was logged, by folder and content
    logged: dict[tuple[object, bytes], tuple[str, str]] = field(default_factory=dict)

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """A request in the tenant's workspace, its path sent exactly as given."""
        request = requests.Request(
            method, self.url, headers={"X-MLFLOW-WORKSPACE": self.name}, **arguments
        ).prepare()
        query = request.path_url.partition("?")[2]
        request.url = f"{self.url}{path}" + (f"?{query}" if query else "")
        with requests.Session() as session:
            return session.send(request, timeout=60)

    def artifact(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """A request to the artifact proxy."""
        return self.call(method, f"/api/2.0/mlflow-artifacts/artifacts/{path}", **arguments)

    def log_model(self, folder: Path, content: bytes = b"weights") -> tuple[str, str]:
        """Log a small model to a new run; returns the run and the model's address."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}}))
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data/model.bin").write_bytes(content)
        with registry.tenant_scope(self.name):
            run = self.client.create_run(self.experiment)
            self.client.log_metric(run.info.run_id, "mae", 1.5)
            self.client.log_param(run.info.run_id, "feature_service", "forecast_basic")
            self.client.log_artifacts(run.info.run_id, str(folder), "model")
        return run.info.run_id, f"{run.info.artifact_uri}/model"

    def register(self, folder: Path, content: bytes = b"weights") -> int:
        """Register a new version of the model; the same files again are of the same run."""
        if (folder, content) not in self.logged:
            self.logged[folder, content] = self.log_model(folder, content)
        run_id, source = self.logged[folder, content]
        with registry.tenant_scope(self.name):
            return int(self.client.create_model_version(MODEL, source, run_id).version)

    def stage(self, version: int, stage: str) -> requests.Response:
        """MLflow's own REST call of the stage menu."""
        body = {"name": MODEL, "version": str(version), "stage": stage, "archive_existing_versions": False}
        return self.call("POST", "/api/2.0/mlflow/model-versions/transition-stage", json=body)

    def alias(self, alias: str, version: int) -> requests.Response:
        """MLflow's own REST call of the alias dialog."""
        body = {"name": MODEL, "alias": alias, "version": str(version)}
        return self.call("POST", "/api/2.0/mlflow/registered-models/alias", json=body)

    def stages(self) -> dict[int, str]:
        """Stage of every version."""
        return {item.version: item.stage for item in registry.list_versions(self.name, MODEL)}


def new_tenant(url: str, name: str | None = None) -> Tenant:
    """A tenant nobody else uses, with a model without versions, on the server at `url`.

    That server must be the one of the settings (`MLFLOW_TRACKING_URI`).
    """
    name = name or f"tenant-{secrets.token_hex(4)}"
    registry.ensure_tenant(name)
    client = MlflowClient(url, url)
    with registry.tenant_scope(name):
        client.create_registered_model(MODEL)
        return Tenant(name, url.rstrip("/"), client, client.create_experiment("demand"))
