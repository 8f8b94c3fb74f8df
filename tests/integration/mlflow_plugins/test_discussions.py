"""Requests for promotion and comments in the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from mlflow.exceptions import MlflowException

from mlflow_plugins.database import comments as table
from mlflow_plugins.lifecycle import audit
from mlflow_plugins.lifecycle import discussions as module
from mlflow_plugins.lifecycle.discussions import Discussions
from mlflow_plugins.store import tenants
from mlflow_plugins.users.permissions import Actor

if TYPE_CHECKING:
    from collections.abc import Callable

    from oracles.lifecycle import Model


@pytest.fixture
def discussions(model: Model) -> Discussions:
    return Discussions(model.store)


def _waiting(model: Model) -> list[tuple[int, str]]:
    found = Discussions(model.store).open_requests()
    return [(said.version, said.text) for said in found if said.name == model.name]


def _refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, str]:
    with pytest.raises(MlflowException) as error:
        call(*arguments, **options)
    return error.value.get_http_status_code(), str(error.value.message)


def test_request__waits_until_the_version_moves(model: Model, discussions: Discussions) -> None:
    for _ in range(2):
        model.register()
    discussions.request(model.name, 1, "lower MAE", claim="emil")
    assert _waiting(model) == [(1, "lower MAE")]
    model.move(2, "Archived")
    discussions.comment(model.name, 1, "looks good", claim="anna")
    assert _waiting(model) == [(1, "lower MAE")]
    model.move(1, "Production")
    assert _waiting(model) == []
    # back in Staging it is another request, of the same words or not
    model.move(1, "Archived")
    model.move(1, "Staging")
    assert _waiting(model) == []
    discussions.request(model.name, 1, "lower MAE", claim="emil")
    assert _waiting(model) == [(1, "lower MAE")]
    kinds = [said.kind for said in discussions.thread(model.name, 1)]
    assert kinds == ["request", "comment", "request"]
    assert discussions.thread(model.name, 2) == []
    model.check()


def test_thread__that_is_full__takes_no_more(
    model: Model, discussions: Discussions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.register()
    monkeypatch.setattr(module, "MOST", 2)
    discussions.comment(model.name, 1, "looks good", claim="anna")
    discussions.request(model.name, 1, "lower MAE", claim="emil")
    status, text = _refusal(discussions.withdraw, model.name, 1, "not yet", claim="emil")
    assert (status, "The thread of version 1 is full" in text) == (409, True)
    assert len(discussions.thread(model.name, 1)) == 2


def test_request__is_made_once__and_ended_once(model: Model, discussions: Discussions) -> None:
    model.register()
    first = discussions.request(model.name, 1, "lower MAE", claim="emil")
    assert discussions.request(model.name, 1, "lower MAE", claim="emil") == first
    status, text = _refusal(discussions.request, model.name, 1, "mine, too", claim="ada")
    assert status == 409
    assert "emil asks for the promotion of version 1 already." in text
    discussions.withdraw(model.name, 1, "not yet", claim="emil")
    assert _waiting(model) == []
    status, text = _refusal(discussions.withdraw, model.name, 1, "not yet", claim="emil")
    assert (status, "Nobody asks" in text) == (409, True)
    discussions.request(model.name, 1, "mine, too", claim="ada")
    assert _waiting(model) == [(1, "mine, too")]


def test_requests_at_once__of_which_one_is_made(model: Model, discussions: Discussions) -> None:
    model.register()

    def ask(number: int) -> int:
        try:
            discussions.request(model.name, 1, f"reason {number}", claim=f"person-{number}")
        except MlflowException as error:
            return int(error.get_http_status_code())
        return 200

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [200, *[409] * 7]
    assert len(_waiting(model)) == len(discussions.thread(model.name, 1)) == 1


@pytest.mark.parametrize(
    ("version", "text", "status", "words"),
    [
        (1, "", 400, "Say something"),
        (1, " \n ", 400, "Say something"),
        (1, "x" * 4001, 400, "4001 characters; at most 4000"),
        (1, "a\0b", 400, "NUL"),
        (3, "fine", 404, "not found"),
        (2, "fine", 409, "Version 2 of model"),
    ],
)
def test_request__that_cannot_be_kept__is_refused(
    model: Model, discussions: Discussions, version: int, text: str, status: int, words: str
) -> None:
    model.register()
    model.move(model.register(), "Production")
    found, message = _refusal(discussions.request, model.name, version, text)
    assert (found, words in message) == (status, True), message
    assert _waiting(model) == []


def test_promotion__without_a_reason__takes_that_of_its_request(
    model: Model, discussions: Discussions, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("defaults: {reason: {min_length: 5}}\n")
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(policy))
    for _ in range(3):
        model.register()
    for version in (1, 2, 3):
        discussions.request(model.name, version, f"lower MAE {version}", claim="emil")
    assert _refusal(model.move, 9, "Production")[0] == 404
    model.alias("production", 1)
    model.store.move_version(model.name, 2, "Production", reason="my own words")
    model.move(3, "Archived")
    reasons = {row.version: row.reason for row in reversed(model.store.history(model.name))}
    assert reasons == {1: "Displaced from Production by version 2.", 2: "my own words", 3: None}
    promoted = model.store.history(model.name, version=1)[1]
    assert promoted.reason == "lower MAE 1 (requested by emil)"


def test_request__is_a_line_of_the_audit_log__and_an_event(
    model: Model, discussions: Discussions, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.register()
    told: list[module.Comment] = []
    monkeypatch.setattr(module, "promotion_requested", lambda _, __, request: told.append(request))
    with caplog.at_level(logging.INFO, audit.LOGGER):
        discussions.comment(model.name, 1, "hm", claim="ada")
        request = discussions.request(model.name, 1, "lower MAE", claim="emil")
        discussions.withdraw(model.name, 1, "no", claim="emil")
        _refusal(discussions.withdraw, model.name, 1, "no", claim="emil")
    assert told == [request]
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["event"] for line in lines] == [
        "comment",
        "promotion_requested",
        "request_withdrawn",
        "refused",
    ]
    about = {"workspace": "default", "name": model.name, "version": 1, "semantic_version": "v1.0.0"}
    assert lines[1].items() >= (about | {"actor": "emil", "text": "lower MAE"}).items()


def test_request__that_fails_before_the_end__leaves_nothing(
    model: Model, discussions: Discussions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.register()

    def fail(*_: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(module, "promotion_requested", fail)
    with pytest.raises(Exception, match="killed"):
        discussions.request(model.name, 1, "lower MAE")
    monkeypatch.undo()
    assert discussions.thread(model.name, 1) == []
    discussions.request(model.name, 1, "lower MAE")
    assert _waiting(model) == [(1, "lower MAE")]


def test_comments__cannot_be_changed(model: Model, discussions: Discussions) -> None:
    model.register()
    discussions.comment(model.name, 1, "hm")
    for statement in (sa.delete(table), sa.update(table).values(text="fine")):
        with model.store.engine.begin() as connection:
            with pytest.raises(sa.exc.DBAPIError, match="append-only"):
                connection.execute(statement)
            connection.rollback()
    assert [said.text for said in discussions.thread(model.name, 1)] == ["hm"]


def test_model_of_the_same_name__and_tenant_of_the_same_name__begin_with_nothing(
    model: Model, discussions: Discussions
) -> None:
    model.register()
    discussions.request(model.name, 1, "of the first one")
    model.store.remove_version(model.name, 1, force=True)
    model.store.delete_registered_model(model.name)
    model.store.create_registered_model(model.name)
    model.register()
    assert discussions.thread(model.name, 1) == _waiting(model) == []
    with model.store.sessions() as session:
        assert [said.text for said in module.between(session, "default", model.name, None, 0)] == [
            "of the first one"
        ]
        nobody = Actor("admin", "authenticated")
        tenants.record_removal(session, "default", tenants.RELEASED, actor=nobody, reason=None, counts={})
        assert module.between(session, "default", model.name, None, 0) == []
        session.rollback()
