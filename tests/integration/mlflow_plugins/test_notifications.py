"""Promotions, requests, rollbacks and refusals reach real receivers, in spite of failures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from support import receivers, registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from ai_hub.errors import ConflictError
from ai_hub.registry.discussions import propose_retraining, request_promotion
from ai_hub.registry.tenants import remove_tenant
from benchmarks.servers import free_port
from mlflow_plugins.database import notifications as table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Stack

KEY = "a key of this test"
#: Addresses of chats are secrets.
SECRET = "T0123-a-secret-of-the-address"
#: Workspace of test messages.
_TESTS = "default"
_POLICY = "defaults:\n  reason: true\n  required_metrics: {metrics: {mae: {max: 2}}}\n"


@dataclass
class World:
    """A server, whom it tells, and what its database says."""

    server: registry_servers.Server
    web: receivers.WebServer
    mail: receivers.MailServer
    #: where nobody listens yet
    late_port: int
    engine: sa.Engine

    def waiting(self, tenant: str) -> list[Any]:
        """Messages about a tenant that have not arrived."""
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(table).where(table.c.workspace == tenant)))

    @contextmanager
    def without_traces(self) -> Iterator[None]:
        """After the block no test message is left, nor has one used up an answer: others may follow."""
        answers = dict(self.web.answers)
        self.web.answers.clear()
        try:
            yield
            _until(lambda: all(row.error for row in self.waiting(_TESTS)))  # what is left has been tried
        finally:
            with self.engine.begin() as connection:
                connection.execute(sa.delete(table).where(table.c.workspace == _TESTS))
            for received in (*self.web.posts.values(), self.mail.mails):
                while not received.empty():
                    received.get()
            self.web.answers.update(answers)

    def tenant(self, name: str, folder: Path, versions: int = 1) -> Tenant:
        """A tenant with versions in Staging."""
        made = new_tenant(self.server.url, name)
        for _ in range(versions):
            made.register(folder / "model")
        return made


@pytest.fixture(scope="module")
def running(
    servers: Stack, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One server for all tests; each has a tenant with receivers of its own."""
    folder = tmp_path_factory.mktemp("notifications")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    database = f"sqlite:///{folder}/mlflow.db"
    (folder / "policy.yaml").write_text(_POLICY)
    late_port, engine = free_port(), sa.create_engine(database)
    with (
        receivers.web_server(answers={"/retried": (500, 307)}) as web,
        receivers.mail_server() as mail,
    ):
        port = web.server.server_port
        settings = {
            "PROMOTION_POLICY_PATH": str(folder / "policy.yaml"),
            "NOTIFY_RECEIVERS": f"""
                told={web.url}/told told=slack+{web.url}/slack#promotion told=teams+{web.url}/teams#promotion
                told=mattermost+{web.url}/mattermost#promotion told=mailto:ops@example.org#rollback,refusal
                late=slack+http://127.0.0.1:{late_port}/{SECRET} late={web.url}/other
                retried={web.url}/retried#promotion tested=teams+{web.url}/tested#rollback
                private=https://localhost:{port}/private
                removed=http://127.0.0.1:{free_port()}/hook#promotion,deletion
                left={web.url}/left#archival,deletion
                """,
            "NOTIFY_SECRET": KEY,
            "NOTIFY_ALLOWED_HOSTS": "127.0.0.0/8",
            "NOTIFY_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
            "NOTIFY_SENDER": "AI Hub <ai-hub@example.org>",
            "NOTIFY_PAGES_URL": "https://models.example.org/",
        }
        stack = servers.start("s3")
        with registry_servers.running(database, stack, folder, settings=settings) as server:
            yield World(server, web, mail, late_port, engine)
    engine.dispose()


@pytest.fixture
def world(running: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The settings name its server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.server.url)
    return running


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + receivers.SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _signature(post: receivers.Post) -> str:
    """By the words of Standard Webhooks."""
    head = f"{post.headers['X-MLflow-Delivery-Id']}.{post.headers['X-MLflow-Timestamp']}."
    digest = hmac.new(KEY.encode(), head.encode() + post.body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def test_every_kind_of_receiver__is_told_who_what_why_and_the_evidence(world: World, tmp_path: Path) -> None:
    web, mail = world.web, world.mail
    world.tenant("told", tmp_path, versions=2)
    registry.promote("told", MODEL, 1, reason="<!channel> @all: error is lower")
    told = web.next("/told")
    assert told.headers["X-MLflow-Signature"] == _signature(told)
    _check_frame(told.json)
    _check_chats(web, told.json["data"]["actor"])

    # why a promotion is refused, to the webhook and by e-mail
    with pytest.raises(ConflictError, match="gates to Production refuse"):
        registry.promote("told", MODEL, 2)
    refused = web.next("/told").json
    assert (refused["action"], refused["data"]["version"]) == ("refusal", 2)
    assert "reason" in refused["data"]["message"]
    assert refused["data"]["evidence"]["gates"]["required_metrics"]["metrics"] == {"mae": 1.5}
    sent = mail.next()
    assert (sent.sender, sent.mailboxes) == ("ai-hub@example.org", ["ops@example.org"])
    assert (
        sent.message["Subject"].strip().startswith(f"[told] {MODEL} 2 (v1.0.1) is not promoted, refused to ")
    )
    assert refused["data"]["message"].splitlines()[0] in sent.message.get_content()

    request_promotion("told", MODEL, "please look at the plots", 2)
    asked = web.next("/told").json
    assert (asked["action"], asked["data"]["reason"]) == ("request", "please look at the plots")

    # told once, however often it is sent
    for _ in range(2):
        said = propose_retraining("told", MODEL, "Train anew: 2 new meters: b2, c", 1)
    proposed = web.next("/told").json
    assert (proposed["action"], proposed["data"]["reason"]) == ("retraining", said.text)
    assert proposed["data"]["text"].startswith(f"[told] {MODEL} 1 (v1.0.0) should be trained anew, proposes ")
    assert (proposed["data"]["from_stage"], proposed["data"]["to_stage"]) == ("Production", None)

    registry.promote("told", MODEL, 2, reason="retrained on 2026")
    promoted = web.next("/told").json["data"]
    assert (promoted["displaced"], promoted["from_stage"]) == ([1], "Staging")
    registry.rollback("told", MODEL, reason="drift of the load")
    assert web.next("/told").json["action"] == "rollback"
    headline = (
        f"[told] {MODEL} 1 (v1.0.0) is back in Production, rolled back by {promoted['actor']} (claimed)"
    )
    assert mail.next().message["Subject"].strip() == headline
    # what is there already, and what has nothing to do with Production, is nobody's news
    with pytest.raises(ConflictError, match="in Production already"):
        registry.promote("told", MODEL, 1, reason="error is lower")
    registry.promote("told", MODEL, 2, stage="staging")
    _until(lambda: not world.waiting("told"))
    assert (web.posts["/told"].qsize(), mail.mails.qsize()) == (0, 0)


def test_production_without_a_successor__is_told__by_whichever_way_it_left(
    world: World, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    left = world.tenant("left", tmp_path)
    chip = {"name": MODEL, "version": "1"}
    of = ("--tenant", "left", "--version", "1", "--reason", "drift")
    page = {"action": "reject", "version": "1", "reason": "drift", "seen": str(2**40)}

    def dialog() -> None:
        assert left.alias("archived", 1).status_code == 200
        taken_off = left.call(
            "DELETE", "/api/2.0/mlflow/registered-models/alias", json={**chip, "alias": "production"}
        )
        assert taken_off.status_code == 200

    ways: list[tuple[str, str | None, Callable[[], object]]] = [
        ("archival", None, lambda: left.stage(1, "Archived")),
        ("archival", None, dialog),
        ("archival", "drift", lambda: left.call("POST", f"/lifecycle/left/{MODEL}", data=page)),
        ("archival", "drift", lambda: run("promote", MODEL, *of, "--stage", "archived")),
        ("deletion", "drift", lambda: run("delete", MODEL, *of, "--force")),
    ]
    for kind, reason, leave in ways:
        registry.promote("left", MODEL, 1, reason="error is lower")
        leave()
        told = world.web.next("/left").json
        data = told["data"]
        assert (told["action"], data["version"], data["from_stage"], data["reason"]) == (
            kind,
            1,
            "Production",
            reason,
        )
        assert (
            f"{MODEL} 1 (v1.0.0) left Production without a successor, {data['text'].split()[-4]}"
            in (data["text"])
        )
        assert not any(stage == "Production" for stage in left.stages().values())
    _until(lambda: not world.waiting("left"))
    assert world.web.posts["/left"].empty()


def _check_frame(told: dict[str, Any]) -> None:
    assert (told["entity"], told["action"], told["workspace"]) == ("model_version", "promotion", "told")
    data = told["data"]
    assert (data["model"], data["version"], data["semantic_version"]) == (MODEL, 1, "v1.0.0")
    assert (data["actor_source"], data["reason"]) == ("claimed", "<!channel> @all: error is lower")
    trail, _ = registry.history("told", MODEL, version=1)
    assert (data["actor"], data["evidence"]) == (trail.actor, trail.evidence)
    assert data["evidence"]["gates"]["required_metrics"]["metrics"] == {"mae": 1.5}
    assert data["link"] == f"https://models.example.org/lifecycle/told/{MODEL}"


def _check_chats(web: receivers.WebServer, actor: str) -> None:
    headline = f"[told] {MODEL} 1 (v1.0.0) is in Production, promoted by {actor} (claimed)"
    gate = "Gate required_metrics: Every required metric is there and within its bounds. mae 1.5"
    link = f"https://models.example.org/lifecycle/told/{MODEL}"
    slack = web.next("/slack").json["text"].splitlines()
    assert slack[:2] == [f"*{headline}*", "Why: &lt;!channel&gt; @all: error is lower"]
    assert (gate in slack, slack[-1]) == (True, link)
    mattermost = web.next("/mattermost").json["text"].splitlines()
    assert mattermost[:2] == [f"**{headline}**", "Why: <!channel> @\u200ball: error is lower"]
    (card,) = web.next("/teams").json["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    texts = [block["text"] for block in card["content"]["body"]]
    assert texts[:2] == [headline, "Why: <!channel> @all: error is lower"]
    assert (gate in texts, texts[-1]) == (True, link)


def test_receiver_that_is_down__delays_nothing__and_is_told_after_the_server_has_restarted(
    world: World, tmp_path: Path
) -> None:
    world.tenant("late", tmp_path)
    registry.promote("late", MODEL, 1, reason="error is lower")
    assert world.web.next("/other").json["action"] == "promotion"
    _until(lambda: [row.error for row in world.waiting("late")] == ["cannot be reached"])
    (row,) = world.waiting("late")
    world.server.kill()
    world.server.start()
    with receivers.web_server(world.late_port) as late:
        post = late.next(f"/{SECRET}")
        _until(lambda: not world.waiting("late"))
    assert post.headers["X-MLflow-Delivery-Id"] == row.delivery_id
    assert "error is lower" in post.json["text"]
    told = world.server.log.read_text() + str(row)
    assert "slack:127.0.0.1:" in told
    assert SECRET not in told
    assert KEY not in told


def test_receiver_that_answers_500_or_leads_elsewhere__is_asked_again(world: World, tmp_path: Path) -> None:
    world.tenant("retried", tmp_path)
    registry.promote("retried", MODEL, 1, reason="error is lower")
    attempts = [world.web.next("/retried") for _ in range(3)]
    assert len({post.headers["X-MLflow-Delivery-Id"] for post in attempts}) == 1
    for post in attempts:
        assert post.headers["X-MLflow-Signature"] == _signature(post)
    _until(lambda: not world.waiting("retried"))
    assert world.web.posts["/elsewhere"].empty()
    assert "answered 500. The message about the promotion of" in world.server.log.read_text()


def test_private_address_that_is_not_allowed__is_never_asked(world: World, tmp_path: Path) -> None:
    world.tenant("private", tmp_path)
    registry.promote("private", MODEL, 1, reason="error is lower")
    refusal = "has no public address, and is not in NOTIFY_ALLOWED_HOSTS"
    _until(lambda: [row.error for row in world.waiting("private")] == [refusal])
    assert world.web.posts["/private"].empty()


def test_nothing_happened__nobody_is_told__and_messages_of_a_removed_tenant_go_with_it(
    world: World, tmp_path: Path
) -> None:
    acme = world.tenant("removed", tmp_path, versions=2)
    assert acme.stage(1, "Archived").status_code == 200
    assert acme.stage(1, "Production").status_code == 409
    assert acme.stage(9, "Production").status_code == 404
    assert world.waiting("removed") == []
    registry.promote("removed", MODEL, 2, reason="error is lower")
    assert len(world.waiting("removed")) == 1
    remove_tenant("removed", reason="contract ended", force=True, keep=False)
    assert world.waiting("removed") == []


def test_notifications__show_receivers_and_what_waits__and_send_a_test(
    world: World, run: Callable[..., tuple[int, str, str]]
) -> None:
    with world.without_traces():
        assert run("registry", "notifications", "--test")[0] == 0
        headline = world.web.next("/tested").json["attachments"][0]["content"]["body"][0]["text"]
        assert headline.startswith("[default] This message is nothing but a test by ")

        def shown() -> dict[tuple[str, str], dict[str, Any]]:
            status, out, _ = run("registry", "notifications", "--json")
            assert (status, SECRET in out) == (0, False)
            return {(row["tenant"], row["receiver"].split(":")[0]): row for row in json.loads(out)}

        # each receiver is sent the test on its own
        _until(lambda: shown()["late", "slack"]["error"] is not None)
        found = shown()
        slack = found["told", "slack"]
        assert (slack["kinds"], slack["is_set"], slack["failed"]) == (["promotion"], True, 0)
        late = found["late", "slack"]
        assert (late["waiting"], late["error"]) == (1, "cannot be reached")
        _, out, _ = run("registry", "notifications")
        assert "cannot be reached" in out
