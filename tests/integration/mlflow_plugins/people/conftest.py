"""One MLflow server with login, two tenants, and people with every role."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support import registry_servers
from support.people_server import PeopleServer, Tenant, filled, running_with_login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: By person and tenant; `noor` may log in and nothing else.
ROLES: dict[str, dict[str, str]] = {
    "vera": {"acme": "viewer"},
    "emil": {"acme": "engineer"},
    "anna": {"acme": "approver"},
    "bert": {"beta": "approver"},
    "noor": {},
}


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
def routes(server: PeopleServer) -> list[tuple[str, str]]:
    """Method and path of every route of the application."""
    return registry_servers.routes("ai-hub-auth", server.server.settings)


@pytest.fixture(scope="session")
def acme(server: PeopleServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """The tenant of vera, emil and anna; all of it made by emil."""
    return filled(server, "acme", "emil", tmp_path_factory.mktemp("acme"))


@pytest.fixture(scope="session")
def beta(server: PeopleServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """The tenant of bert."""
    return filled(server, "beta", "bert", tmp_path_factory.mktemp("beta"))
