"""An MLflow server of a test's own with login, tenants, and people who have roles in them.

with running_with_login(database, stack, tmp_path, {"ann": {"acme": "approver"}}) as server:
    server.session("ann", "acme").post("/ai-hub/api/models/demand/rollback", json={})
    with server.person("ann"):
        registry.rollback("acme", "demand")
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
import requests
from mlflow import MlflowClient
from pydantic import SecretStr

from ai_hub import registry
from ai_hub.dev import mlflow_server
from ai_hub.registry import users
from benchmarks.mlflow_servers import QUICK_PASSWORDS
from mlflow_plugins.users.roles import Role
from support import registry_servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ADMIN = "admin"
MODEL = "demand"


def password(name: str) -> str:
    """The password of a person (MLflow wants twelve characters)."""
    return f"{name}-has-a-secret"


class Session(requests.Session):
    """Requests to one server as one person in one tenant; paths are relative to the server."""

    def __init__(self, url: str, name: str | None, tenant: str | None) -> None:
        super().__init__()
        self.trust_env = False
        self.auth = (name, password(name)) if name else None
        self._url = url
        if tenant:
            self.headers["X-MLFLOW-WORKSPACE"] = tenant

    def request(self, method: str | bytes, url: str | bytes, *arguments: Any, **options: Any) -> Any:
        options.setdefault("timeout", 60)
        return super().request(method, urljoin(self._url, str(url)), *arguments, **options)


@dataclass
class PeopleServer:
    """A running server with login."""

    server: registry_servers.Server

    @property
    def url(self) -> str:
        return self.server.url

    def session(self, name: str | None, tenant: str | None = None) -> Session:
        """Plain HTTP as `name` (None: without login)."""
        return Session(self.url, name, tenant)

    def client(self) -> MlflowClient:
        """MLflow's own client, as whoever `person` has made the process."""
        return MlflowClient(self.url, self.url)

    @contextmanager
    def person(self, name: str) -> Iterator[None]:
        """In this block `ai_hub`, MLflow and child processes use the server as `name`."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in self.environment(name).items():
                patch.setenv(variable, value)
            yield

    def environment(self, name: str) -> dict[str, str]:
        """What a client of this person needs."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_REGISTRY_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password(name),
        }


def settings(folder: Path) -> dict[str, str]:
    """Variables of a server with login whose users are in `folder`."""
    login = mlflow_server.login_variables(folder, "for a test", SecretStr(password(ADMIN)))
    return {**login, QUICK_PASSWORDS: "true"}


@contextmanager
def running_with_login(
    database: str,
    stack: Mapping[str, str],
    folder: Path,
    roles: Mapping[str, Mapping[str, str]],
    more: Mapping[str, str] | None = None,
) -> Iterator[PeopleServer]:
    """A server on `database` with these people.

    Args:
        database: MLflow's own and the registry's.
        stack: settings of the embedded stack.
        folder: where its log and its users go.
        roles: by person and tenant; tenants are created.
        more: variables of its environment besides those of the login.
    """
    with registry_servers.running(
        database, stack, folder, app="ai-hub-auth", settings={**settings(folder), **(more or {})}
    ) as server:
        running = PeopleServer(server)
        with running.person(ADMIN):
            for tenant in sorted({tenant for mine in roles.values() for tenant in mine}):
                registry.ensure_tenant(tenant)
            for name, mine in roles.items():
                users.add(name, password(name))
                for tenant, role in mine.items():
                    users.grant(name, tenant, Role(role))
        yield running


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
    #: in everything of this tenant, so that it is recognised wherever it turns up.
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
            client = self.server.client()
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


def filled(server: PeopleServer, name: str, person: str, folder: Path) -> Tenant:
    """A tenant with three versions in Staging, all of it made by `person`."""
    tenant = Tenant(name, server, mark=f"private-of-{name}")
    with server.person(person), registry.tenant_scope(name):
        client = server.client()
        tenant.experiment = client.create_experiment(f"loads-of-{name}", tags={"mark": tenant.mark})
        client.create_registered_model(MODEL, tags={"mark": tenant.mark}, description=tenant.mark)
        logged: Any = client.create_logged_model(
            tenant.experiment, name=tenant.mark, tags={"mark": tenant.mark}
        )
        tenant.logged = logged.model_id
    for number in range(3):
        tenant.register(person, folder / str(number))
    return tenant
