"""Who the audit trail names."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import flask
import pytest

from mlflow_plugins.users import permissions
from mlflow_plugins.users.header import HEADER, speaking_for
from mlflow_plugins.users.header_provider import UserHeaderProvider
from mlflow_plugins.users.permissions import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator


def _login(name: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "claim", "expected"),
    [
        ({}, None, Actor("unknown", "unknown")),
        ({}, "ada", Actor("ada", "claimed")),
        ({HEADER: "grace"}, "ada", Actor("grace", "claimed")),
        ({HEADER: "J%C3%BCrgen"}, None, Actor("J\u00fcrgen", "claimed")),
        # nobody has checked the password, so it proves nothing
        (_login("eve"), None, Actor("unknown", "unknown")),
        (_login("eve"), "ada", Actor("ada", "claimed")),
        ({HEADER: "x" * 999}, None, Actor("x" * 256, "claimed")),
    ],
)
def test_current_actor__without_authentication(
    headers: dict[str, str], claim: str | None, expected: Actor
) -> None:
    with flask.Flask(__name__).test_request_context(headers=headers):
        assert permissions.current_actor(claim) == expected


def test_current_actor__behind_mlflows_login__is_who_logged_in() -> None:
    app = flask.Flask(__name__)

    def check() -> None:
        """Stands for the check of MLflow's auth app, which leaves the name here."""
        flask.g.mlflow_authenticated_user = "ada"

    app.before_request(check)
    with app.test_request_context(headers={**_login("mallory"), HEADER: "eve"}):
        app.preprocess_request()
        assert permissions.current_actor("mallory") == Actor("ada", "authenticated")


def test_current_actor__of_our_own_routes__is_who_logged_in() -> None:
    with permissions.logged_in("ada"):
        assert permissions.current_actor("mallory") == Actor("ada", "authenticated")
    assert permissions.current_actor() == permissions.UNKNOWN


def test_current_actor__outside_a_request() -> None:
    assert permissions.current_actor() == permissions.UNKNOWN
    assert permissions.current_actor("ada") == Actor("ada", "claimed")


def test_user_header__names_the_process_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "J\u00fcrgen M.")
    header = UserHeaderProvider().request_headers()[HEADER]
    assert header.isascii()
    assert permissions.user_of_header(header) == "J\u00fcrgen M."


def test_user_header__of_a_process_without_a_user__is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert not UserHeaderProvider().in_context()


@pytest.fixture
def delegates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Account `service` may speak for others."""
    monkeypatch.setenv("AI_HUB_DELEGATES", " service ,other")
    permissions.delegates.cache_clear()
    yield
    permissions.delegates.cache_clear()


@pytest.mark.parametrize(
    ("user", "header", "expected"),
    [
        ("service", "J%C3%BCrgen", Actor("J\u00fcrgen", "delegated")),
        ("service", None, Actor("service", "authenticated")),
        ("service", "%20", Actor("service", "authenticated")),
        ("ada", "grace", Actor("ada", "authenticated")),
        ("Service", "grace", Actor("Service", "authenticated")),
    ],
)
@pytest.mark.usefixtures("delegates")
def test_current_actor__of_an_account_that_speaks_for_others__is_whom_it_names(
    user: str, header: str | None, expected: Actor
) -> None:
    with permissions.logged_in(user, header):
        assert permissions.current_actor("mallory") == expected
    app = flask.Flask(__name__)
    with app.test_request_context(headers={} if header is None else {HEADER: header}):
        flask.g.mlflow_authenticated_user = user
        assert permissions.current_actor("mallory") == expected


def test_user_header__of_a_block_that_speaks_for_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    with speaking_for("J\u00fcrgen"):
        assert UserHeaderProvider().request_headers() == {HEADER: "J%C3%BCrgen"}
    assert UserHeaderProvider().request_headers() == {HEADER: "ada"}
