"""One MLflow server with login, two tenants, and people with every role."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow import MlflowClient
from people_server import ADMIN, PeopleServer, Session, running_with_login

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "demand"
#: By person and tenant; `noor` may log in and nothing else.
ROLES: dict[str, dict[str, str]] = {
    "vera": {"acme": "viewer"},
    "emil": {"acme": "engineer"},
    "anna": {"acme": "approver"},
    "bert": {"beta": "approver"},
    "noor": {},
}
#: The way of our own REST from any stage to any other.
_WAYS = {
    ("Staging", "Production"): ["Production"],
    ("Staging", "Archived"): ["Archived"],
    ("Production", "Archived"): ["Archived"],
    ("Production", "Staging"): ["Archived", "Staging"],
    ("Archived", "Staging"): ["Staging"],
    ("Archived", "Production"): ["Staging", "Production"],
}


@dataclass
class Tenant:
    """A tenant with an experiment, a run with files, a logged model, and versions of one model."""

    name: str
    server: PeopleServer
    #: In everything of this tenant, so that it is recognised wherever it turns up.
    mark: str
    experiment: str = ""
    run: str = ""
    logged: str = ""
    versions: list[int] = field(default_factory=list)

    def session(self, person: str | None) -> Session:
        """Requests of a person in this tenant."""
        return self.server.session(person, self.name)

    def stage(self, version: int) -> str:
        """Where a version is."""
        query = {"name": MODEL, "version": str(version)}
        answer = self.session(ADMIN).get("/api/2.0/mlflow/model-versions/get", params=query)
        return str(answer.json()["model_version"]["current_stage"])

    def put(self, version: int, stage: str) -> None:
        """Move a version to where a test begins."""
        for step in _WAYS.get((self.stage(version), stage), []):
            path = f"/ai-hub/api/models/{MODEL}/versions/{version}/stage"
            answer = self.session(ADMIN).post(path, json={"stage": step, "reason": f"set up for {self.mark}"})
            assert answer.status_code == 200, answer.text

    def register(self, person: str, folder: Path) -> int:
        """Log a small model and register it, as `person`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {lightgbm: {}}\n")
        (folder / "model.bin").write_text(self.mark)
        with self.server.person(person), registry.tenant_scope(self.name):
            client = MlflowClient()
            run = client.create_run(self.experiment, run_name=self.mark, tags={"mark": self.mark})
            self.run = run.info.run_id
            client.log_param(self.run, "mark", self.mark)
            client.log_metric(self.run, f"mae-{self.mark}", 1.5)
            client.log_artifacts(self.run, str(folder), "model")
            source = f"{run.info.artifact_uri}/model"
            made = client.create_model_version(
                MODEL, source, self.run, tags={"mark": self.mark}, description=self.mark
            )
        self.versions.append(int(made.version))
        return int(made.version)


@pytest.fixture(scope="session")
def server(
    servers: Any, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PeopleServer]:
    """A server with everybody in `ROLES`."""
    folder = tmp_path_factory.mktemp("people")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    with running_with_login(
        f"sqlite:///{folder / 'mlflow.db'}", servers.start("s3"), folder, ROLES
    ) as running:
        yield running


@pytest.fixture(scope="session")
def acme(server: PeopleServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """The tenant of vera, emil and anna; all of it made by emil."""
    return _filled(server, "acme", "emil", tmp_path_factory.mktemp("acme"))


@pytest.fixture(scope="session")
def beta(server: PeopleServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """The tenant of bert."""
    return _filled(server, "beta", "bert", tmp_path_factory.mktemp("beta"))


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def _filled(server: PeopleServer, name: str, person: str, folder: Path) -> Tenant:
    tenant = Tenant(name, server, mark=f"private-of-{name}")
    with server.person(person), registry.tenant_scope(name):
        client = MlflowClient()
        tenant.experiment = client.create_experiment(f"loads {tenant.mark}", tags={"mark": tenant.mark})
        client.create_registered_model(MODEL, tags={"mark": tenant.mark}, description=tenant.mark)
        logged: Any = client.create_logged_model(
            tenant.experiment, name=tenant.mark, tags={"mark": tenant.mark}
        )
        tenant.logged = logged.model_id
    for number in range(3):
        tenant.register(person, folder / str(number))
    return tenant


@pytest.fixture(autouse=True)
def _registry_uri() -> Iterator[None]:
    """`server.person` decides where clients go, not what an earlier test has set in the process."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    yield
    mlflow.set_tracking_uri(before)
