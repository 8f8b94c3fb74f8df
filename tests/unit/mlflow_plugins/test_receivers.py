"""`NOTIFY_RECEIVERS`: who is told what, and what no server starts with."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from mlflow_plugins.notifications import outbox
from mlflow_plugins.notifications.outbox import KINDS

SECRET = "T0123-secret-path"


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_ALLOWED_HOSTS", "chat.intra.example.org, 10.20.0.0/16,::1")


def parsed(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[outbox.Receiver, ...]:
    """What the setting says."""
    monkeypatch.setenv("NOTIFY_RECEIVERS", text)
    return outbox.current_receivers()


def test_current__nothing_set__is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outbox.current_receivers() == ()
    assert parsed(monkeypatch, " ") == ()


def test_current__reads_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SMTP_URL", "smtp://mail.example.org")
    monkeypatch.setenv("NOTIFY_SENDER", "ai-hub@example.org")
    found = parsed(
        monkeypatch,
        f"""
        https://hooks.example.org/{SECRET}?a=b=c
        city-works=slack+https://hooks.slack.com/{SECRET}#promotion,rollback
        teams+http://10.20.3.4:8080/x mattermost+http://Chat.intra.example.org/{SECRET}
        http://[::1]/x city-works=mailto:ops@example.org#refusal
        """,
    )
    assert [(item.tenant, item.format, item.is_allowed) for item in found] == [
        (None, "json", False), ("city-works", "slack", False), (None, "teams", True),
        (None, "mattermost", True), (None, "json", True), ("city-works", "mail", True),
    ]  # fmt: skip
    assert found[0].address == f"https://hooks.example.org/{SECRET}?a=b=c"
    assert found[1].kinds == {"promotion", "rollback"}
    assert found[0].kinds == KINDS.keys()
    assert SECRET not in repr(found) + "".join(item.label for item in found)
    assert found[1].label.startswith("slack:hooks.slack.com:")
    assert found[1].hears("city-works", "rollback")
    assert not found[1].hears("city-works", "refusal")
    assert not found[1].hears("grid-east", "rollback")
    assert found[0].hears("grid-east", "request")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"http://hooks.example.org/{SECRET}", "Receiver 1 .* leads to hooks.example.org without encryption"),
        (f"http://10.21.0.1/{SECRET}", "without encryption"),
        (f"https://a.example.org/x ftp://b.example.org/{SECRET}", "Receiver 2 .* is none of"),
        (f"{SECRET}", "is none of"),
        (f"City_Works=https://a.example.org/{SECRET}", "is none of"),
        ("https:///path", "names no host"),
        ("https://[::1", "names no host"),
        ("slack+mailto:ops@example.org", "names no mailbox"),
        ("mailto:ops", "names no mailbox"),
        ("mailto:ops@example.org", "NOTIFY_SMTP_URL and NOTIFY_SENDER must be set"),
        (
            f"https://a.example.org/{SECRET}#promotions",
            "knows no 'promotions'; there are archival, deletion, promotion",
        ),
        (
            f"https://a.example.org/{SECRET} https://a.example.org/{SECRET}#refusal",
            "Receiver 2 .* is there twice",
        ),
    ],
)
def test_current__wrong__says_which_and_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    with pytest.raises(MlflowException, match=why) as refused:
        parsed(monkeypatch, text)
    assert SECRET not in str(refused.value)
    assert "\n" not in refused.value.message
