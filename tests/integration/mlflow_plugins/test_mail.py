"""E-mail through a server that asks for STARTTLS and a login, and what is said where that goes wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from support import receivers as servers
from support.certificates import self_signed

from mlflow_plugins.notifications import delivery, outbox
from mlflow_plugins.notifications.outbox import PROMOTION, Event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow_plugins.notifications.outbox import Receiver
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

USER, PASSWORD = servers.ACCOUNT
EVENT = Event(PROMOTION, "city-works", "demand", 3, "v1.2.0", "ann", "authenticated", "lower error", 1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "mail.pem", "mail")


@pytest.fixture(scope="module")
def guarded(certificate: Path) -> Iterator[servers.MailServer]:
    """Takes mail by STARTTLS and after a login only."""
    with servers.mail_server(certificate) as running:
        yield running


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> Receiver:
    monkeypatch.setenv("NOTIFY_RECEIVERS", "mailto:ops@example.org")
    monkeypatch.setenv("NOTIFY_SENDER", "ai-hub@example.org")
    monkeypatch.setenv("NOTIFY_SMTP_URL", "smtp://127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return outbox.current_receivers()[0]


def _address(port: int, password: str | None = PASSWORD) -> str:
    login = f"{quote(USER, safe='')}:{quote(password, safe='')}@" if password else ""
    return f"smtp://{login}127.0.0.1:{port}"


def _send(store: LifecycleStore, receiver: Receiver) -> str | None:
    """Send what is due; returns why it is to be tried again."""
    delivery._send_due(store, receiver)
    with store.sessions() as session:
        (row,) = outbox.overview(session)
    assert row["failed"] == 0
    assert row["waiting"] == (1 if row["error"] else 0)
    return str(row["error"]) if row["error"] else None


def test_mail__by_starttls_and_login__arrives(
    sqlite_store: LifecycleStore,
    receiver: Receiver,
    guarded: servers.MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SMTP_URL", _address(guarded.port))
    with sqlite_store.transaction() as session:
        outbox.add(session, EVENT)
    assert _send(sqlite_store, receiver) is None
    mail = guarded.next()
    assert (mail.login, mail.sender, mail.mailboxes) == (USER, "ai-hub@example.org", ["ops@example.org"])
    assert mail.message["Subject"] == "[city-works] demand 3 (v1.2.0) is in Production, promoted by ann"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("password", "has a mail server that refuses the login of NOTIFY_SMTP_URL (535)"),
        ("no login", "has a mail server that asks for a login, which NOTIFY_SMTP_URL has not"),
        ("no encryption", "has a mail server that offers no encryption, so no password is sent"),
        ("certificate", "has a mail server that has no certificate that is trusted here"),
    ],
)
def test_mail__that_cannot_be_sent__is_said_once_without_the_password__and_arrives_later(
    sqlite_store: LifecycleStore,
    receiver: Receiver,
    guarded: servers.MailServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    why: str,
) -> None:
    wrong = "secret-and-wrong" if fault == "password" else PASSWORD
    with servers.mail_server() as plain, monkeypatch.context() as faulty, caplog.at_level(logging.DEBUG):
        port = plain.port if fault == "no encryption" else guarded.port
        faulty.setenv("NOTIFY_SMTP_URL", _address(port, None if fault == "no login" else wrong))
        if fault == "certificate":
            faulty.delenv("SSL_CERT_FILE")
        with sqlite_store.transaction() as session:
            outbox.add(session, EVENT)
        assert _send(sqlite_store, receiver) == why
        assert plain.mails.empty()
    what = f"{receiver.label} {why}. The message about the promotion of demand 3 (v1.2.0) (city-works)"
    assert [record.getMessage() for record in caplog.records if record.name == "ai_hub.notifications"] == [
        f"{what} is tried again."
    ]
    with sqlite_store.sessions() as session:
        kept = str(outbox.overview(session))
    for secret in (wrong, quote(wrong, safe="")):
        assert secret not in caplog.text + kept
    monkeypatch.setenv("NOTIFY_SMTP_URL", _address(guarded.port))
    later = outbox.get_current_time_millis() + 60_000
    monkeypatch.setattr(outbox, "get_current_time_millis", lambda: later)
    assert _send(sqlite_store, receiver) is None
    assert guarded.next().login == USER
