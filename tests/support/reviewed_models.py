"""Models for somebody to review: a policy with gates, people with roles, versions with metrics."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import yaml
from mlflow import MlflowClient

from ai_hub import registry
from support.people_server import PeopleServer, running_with_login

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TENANT, OTHER_TENANT = "city-works", "grid-east"
ROLES = {
    "vera": {TENANT: "viewer"},
    "emil": {TENANT: "engineer"},
    "anna": {TENANT: "approver"},
    "bert": {OTHER_TENANT: "approver"},
}
_POLICY = """
defaults:
  reason: true
  required_metrics: {metrics: {mae: {max: 2}}}
  not_worse_than_production: {metric: mae, better: lower, max_worse_percent: 5}
"""
_MLMODEL = {"flavors": {"python_function": {"loader_module": "nothing"}}}


@dataclass
class Reviews:
    """A server with login, `ROLES` and gates, on which emil registers and anna approves."""

    server: PeopleServer

    @property
    def url(self) -> str:
        return self.server.url

    def register(self, model: str, *, tenant: str = TENANT, person: str = "emil", **metrics: float) -> int:
        """Log a run with these metrics and a model, and register it; returns the version."""
        with (
            self.server.person(person),
            registry.tenant_scope(tenant),
            tempfile.TemporaryDirectory() as folder,
        ):
            client = MlflowClient()
            found = client.get_experiment_by_name(model)
            run = client.create_run(found.experiment_id if found else client.create_experiment(model)).info
            for name, value in metrics.items():
                client.log_metric(run.run_id, name, value)
            Path(folder, "MLmodel").write_text(yaml.safe_dump(_MLMODEL))
            client.log_artifacts(run.run_id, folder, "model")
            if not found:
                client.create_registered_model(model)
            source = f"{run.artifact_uri}/model"
            return int(client.create_model_version(model, source, run.run_id, await_creation_for=0).version)

    def move(self, model: str, version: int, stage: str, reason: str, *, person: str = "anna") -> None:
        """Move a version as `ai-hub promote` does."""
        path = f"/ai-hub/api/models/{model}/versions/{version}/stage"
        answer = self.server.session(person, TENANT).post(path, json={"stage": stage, "reason": reason})
        assert answer.status_code == requests.codes.ok, answer.text

    def history(self, model: str) -> list[registry.Transition]:
        """The audit trail, newest first."""
        with self.server.person("vera"):
            return registry.history(TENANT, model)

    def stages(self, model: str) -> dict[int, str]:
        """Stage of every version."""
        with self.server.person("vera"):
            return {item.version: item.stage for item in registry.list_versions(TENANT, model)}


@contextmanager
def reviews(database: str, stack: Mapping[str, str], folder: Path) -> Iterator[Reviews]:
    """A server on `database` with nothing registered yet; see `running_with_login`."""
    policy = folder / "policy.yaml"
    policy.write_text(_POLICY)
    more = {"PROMOTION_POLICY_PATH": str(policy)}
    with running_with_login(database, stack, folder, ROLES, more) as server:
        yield Reviews(server)
