"""A server with login whose users are in PostgreSQL beside MLflow's own tables; `long` makes those, too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from support import registry_servers
from support.people_server import ADMIN, PeopleServer, settings

from ai_hub.dev import mlflow_server

if TYPE_CHECKING:
    from pathlib import Path

    from support.registry_servers import Server


@pytest.mark.parametrize("template", ["registry_template", pytest.param("template1", marks=pytest.mark.long)])
@pytest.mark.usefixtures("postgres_template")
def test_workers__start_at_once_on_a_new_database(
    native_postgres: str, servers: Any, tmp_path: Path, template: str
) -> None:
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE login_{template} TEMPLATE {template}")
    database = urlsplit(native_postgres)._replace(path=f"/login_{template}").geturl()
    stack = servers.start("s3")
    variables = settings(tmp_path)
    (tmp_path / "login.ini").write_text(mlflow_server.login_configuration(database))

    def start(number: int) -> Server:
        folder = tmp_path / str(number)
        folder.mkdir()
        running = registry_servers.running(database, stack, folder, app="ai-hub-auth", settings=variables)
        return cleanup.enter_context(running)

    with ExitStack() as cleanup, ThreadPoolExecutor(2) as pool:
        for server in pool.map(start, range(2)):
            with PeopleServer(server).session(ADMIN) as admin:
                users = admin.get("/api/2.0/mlflow/users/list")
                assert [user["username"] for user in users.json()["users"]] == [ADMIN]
                assert admin.post("/api/2.0/mlflow/experiments/search", json={"max_results": 1}).ok
