"""The server is killed between the statements of a comment, a request or a withdrawal: all of it or none."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
import requests
import sqlalchemy as sa
from support import properties, receivers, registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from benchmarks.servers import free_port
from mlflow_plugins.database import comments, notifications

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack

API: Final = f"/ai-hub/api/models/{MODEL}/versions/1"
ACTIONS: Final = {
    "comment": ("POST", "comments", {"json": {"text": "see the plots"}}),
    "request": ("POST", "request", {"json": {"text": "lower MAE"}}),
    "withdrawal": ("DELETE", "request", {"params": {"text": "found a leak"}}),
}
#: The statement that waits when the server dies; what comes before it in the transaction has been done.
STATEMENTS: Final = {
    "registered_models": "UPDATE registered_models",
    comments.name: f"INSERT INTO {comments.name}",
    notifications.name: f"INSERT INTO {notifications.name}",
}


@dataclass
class Life:
    """A version in Staging on a server that dies and comes back, and its database."""

    server: registry_servers.Server
    acme: Tenant
    engine: sa.Engine

    def call(self, action: str) -> requests.Response:
        """Comment, request or withdraw."""
        method, path, body = ACTIONS[action]
        return self.acme.call(method, f"{API}/{path}", **body)

    def said(self) -> list[str]:
        """Kinds of the entries of the thread."""
        answer = self.acme.call("GET", f"{API}/comments")
        return [entry["kind"] for entry in answer.json()["comments"]]

    def told(self) -> int:
        """How many messages about requests wait for the receiver."""
        with self.engine.connect() as connection:
            mine = notifications.c.workspace == self.acme.name
            return connection.scalar(sa.select(sa.func.count()).where(mine)) or 0

    @contextmanager
    def asked(self, action: str) -> Iterator[None]:
        """Somebody asks for it meanwhile, and may get no answer."""

        def run() -> None:
            with suppress(requests.ConnectionError):
                self.call(action)

        client = threading.Thread(target=run)
        client.start()
        yield
        client.join()

    def kill_at(self, action: str, table: str) -> None:
        """Ask, kill the server while it waits for a table, and start it again."""
        url = self.engine.url.render_as_string(hide_password=False)
        with psycopg.connect(url) as lock:
            lock.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
            with self.asked(action):
                _wait_for(url, STATEMENTS[table])
                self.server.kill()
        self.server.start()


def _wait_for(url: str, statement: str) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, %s)"
    with psycopg.connect(url, autocommit=True) as look:
        deadline = time.monotonic() + receivers.SECONDS
        while look.execute(waiting, (statement,)).fetchone() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def _life(database: str, servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    settings = {
        "NOTIFY_RECEIVERS": f"http://127.0.0.1:{free_port()}/hook#request",
        "NOTIFY_ALLOWED_HOSTS": "127.0.0.1",
    }
    engine = sa.create_engine(database)
    with registry_servers.running(database, servers.start("s3"), tmp_path, settings=settings) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        acme = new_tenant(server.url)
        acme.register(tmp_path / "model")
        yield Life(server, acme, engine)
    engine.dispose()


@pytest.fixture
def life(
    empty_database: str, servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Life]:
    with _life(empty_database, servers, tmp_path, monkeypatch) as life:
        yield life


def _check_once(life: Life, action: str, before: list[str]) -> None:
    """Repeating it does it once, with one message for a request."""
    assert life.call(action).status_code == 200
    answer = life.call(action)
    # who withdraws again is told that there is nothing left to withdraw
    assert answer.status_code == (409 if action == "withdrawal" else 200)
    assert life.said() == [*before, action]
    assert life.told() == life.said().count("request")


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
def test_request__killed_before_its_last_statement__was_never_made__and_can_be_repeated(life: Life) -> None:
    life.kill_at("request", notifications.name)
    assert (life.said(), life.told()) == ([], 0)
    _check_once(life, "request", [])


@pytest.mark.long
@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
def test_discussion__killed_before_any_statement__is_as_before__and_can_be_repeated(life: Life) -> None:
    before: list[str] = []
    for action, tables in (
        ("comment", ["registered_models", comments.name]),
        ("request", list(STATEMENTS)),
        ("withdrawal", ["registered_models", comments.name]),
    ):
        for table in tables:
            life.kill_at(action, table)
            assert (life.said(), life.told()) == (before, before.count("request"))
        _check_once(life, action, before)
        before.append(action)


@pytest.mark.long
def test_discussion__killed_at_any_moment__is_there_once_or_not_at_all(life: Life) -> None:
    dice = random.Random(properties.seed())  # noqa: S311  # no secret
    begun = time.monotonic()
    assert life.call("comment").status_code == 200
    seconds = time.monotonic() - begun
    before = ["comment"]
    for kill in range(properties.examples(6)):
        action = ("request", "withdrawal")[kill % 2]
        with life.asked(action):
            time.sleep(dice.uniform(0, seconds))
            life.server.kill()
        life.server.start()
        if life.said() == before:
            assert life.call(action).status_code == 200
        before.append(action)
        assert life.said() == before
        assert life.told() == before.count("request")
