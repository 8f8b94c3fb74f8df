"""Registered models for somebody to review: small files, metrics of their own, and a life behind them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import yaml
from mlflow import MlflowClient

from ai_hub.registry.tenants import tenant_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

_MLMODEL = {"flavors": {"python_function": {"loader_module": "nothing"}}, "signature": None}


@dataclass
class Registrar:
    """Registers versions in one tenant of the server at `url`, as the user MLflow's client logs in as."""

    url: str
    tenant: str
    auth: tuple[str, str] | None = None

    def register(self, model: str, metrics: Mapping[str, float], **tags: str) -> int:
        """Log a run with a model and register it; returns the version."""
        client = MlflowClient(self.url, self.url)
        with tenant_scope(self.tenant), tempfile.TemporaryDirectory() as folder:
            run = client.create_run(self._experiment(client)).info
            for name, value in metrics.items():
                client.log_metric(run.run_id, name, value)
            Path(folder, "MLmodel").write_text(yaml.safe_dump(_MLMODEL))
            client.log_artifacts(run.run_id, folder, "model")
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model)
            source = f"{run.artifact_uri}/model"
            return int(client.create_model_version(model, source, run.run_id, tags=tags).version)

    def move(self, model: str, version: int, stage: str, reason: str = "as agreed") -> None:
        """Move a version as `ai-hub promote` does."""
        answer = requests.post(
            f"{self.url}/ai-hub/api/models/{model}/versions/{version}/stage",
            json={"stage": stage, "reason": reason},
            headers={"X-MLFLOW-WORKSPACE": self.tenant},
            auth=self.auth,
            timeout=60,
        )
        assert answer.status_code == requests.codes.ok, answer.text

    @staticmethod
    def _experiment(client: MlflowClient) -> str:
        found = client.get_experiment_by_name("reviews")
        return found.experiment_id if found else client.create_experiment("reviews")
