"""An MLflow server of a test's own with login, tenants, and people who have roles in them.

with running_with_login(database, stack, tmp_path, {"ann": {"acme": "approver"}}) as server:
    server.session("ann", "acme").post("/ai-hub/api/models/demand/rollback", json={})
    with server.person("ann"):
        registry.rollback("acme", "demand")
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
import registry_servers
import requests

from ai_hub import registry
from ai_hub.registry import people
from ai_hub.stack import mlflow_login as login
from mlflow_plugins.people.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ADMIN = "admin"


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


def settings(folder: Path, database: str | None = None) -> dict[str, str]:
    """Variables of a server with login whose users are in `folder` (or in `database`)."""
    config = folder / "login.ini"
    users = database or f"sqlite:///{folder / 'login.db'}"
    config.write_text(login.configuration(users))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password(ADMIN),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for a test",
        **login.STRICT,
    }


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
                people.add(name, password(name))
                for tenant, role in mine.items():
                    people.grant(name, tenant, Role(role))
        yield running
