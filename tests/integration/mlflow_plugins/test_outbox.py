"""Messages wait in the database, on SQLite and on PostgreSQL, until they arrived or three days are over."""

from __future__ import annotations

import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from mlflow.server import handlers

from mlflow_plugins.notifications import delivery, outbox
from mlflow_plugins.notifications.outbox import PROMOTION, Event

if TYPE_CHECKING:
    from types import ModuleType

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

EVENT = Event(PROMOTION, "city-works", "demand", 3, "v1.2.0", "ann", "authenticated", "lower error", 1)


@pytest.fixture
def label(monkeypatch: pytest.MonkeyPatch) -> str:
    """The one receiver, which no other test has."""
    monkeypatch.setenv("NOTIFY_RECEIVERS", f"https://hooks.example.org/{secrets.token_hex(8)}#promotion")
    return outbox.current_receivers()[0].label


def _due(store: LifecycleStore, label: str) -> outbox.Message | None:
    with store.sessions() as session:
        return outbox.due(session, label)


def _added(store: LifecycleStore, label: str) -> outbox.Message:
    with store.transaction() as session:
        outbox.add(session, EVENT)
    message = _due(store, label)
    assert message is not None
    return message


def _claim(store: LifecycleStore, message: outbox.Message) -> bool:
    with store.transaction() as session:
        return outbox.claim(session, message)


def test_message__is_claimed_by_one_of_many__and_gone_once_it_arrived(
    store: LifecycleStore, label: str
) -> None:
    message = _added(store, label)
    assert (message.event, message.attempts) == (EVENT, 0)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: _claim(store, message), range(8))) == [False] * 7 + [True]
    assert _due(store, label) is None  # somebody has it; due again if that one dies
    with store.transaction() as session:
        pause = (outbox.next_at_ms(session, label) or 0) - message.at_ms
        assert outbox.LEASE_MS <= pause < outbox.LEASE_MS + 60_000
        outbox.delivered(session, message)
    with store.sessions() as session:
        assert outbox.next_at_ms(session, label) is None


def test_message__that_does_not_arrive__waits_longer_each_time__and_is_given_up_after_three_days(
    store: LifecycleStore, label: str
) -> None:
    message = _added(store, label)
    pauses = []
    for attempts in (0, 1, 2, 30):
        with store.transaction() as session:
            assert outbox.postponed(session, message._replace(attempts=attempts), "answered 500")
            pauses.append((outbox.next_at_ms(session, label) or 0) - message.at_ms)
    for pause, least in zip(pauses, (1000, 2000, 4000, outbox.LONGEST_PAUSE_MS), strict=True):
        assert least <= pause < least + 60_000
    old = message._replace(at_ms=message.at_ms - outbox.GIVE_UP_AFTER_MS - 60_000)
    with store.transaction() as session:
        # the server may have been off, so it is tried a few times, however old it is
        assert outbox.postponed(session, old, "answered 500")
        assert not outbox.postponed(session, old._replace(attempts=10), "answered 500")
        assert outbox.next_at_ms(session, label) is None
        (row,) = (each for each in outbox.overview(session) if each["receiver"] == label)
    assert (row["waiting"], row["failed"], row["error"]) == (0, 1, "answered 500")


def test_message_of_a_transaction_that_failed__was_never_there(store: LifecycleStore, label: str) -> None:
    def fail() -> None:
        with store.transaction() as session:
            outbox.add(session, EVENT)
            raise RuntimeError("no disk")

    with pytest.raises(Exception, match="no disk"):
        fail()
    assert _due(store, label) is None


def test_message_of_a_month_ago__is_forgotten_whoever_it_was_for(
    store: LifecycleStore, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _added(store, label)
    monkeypatch.delenv("NOTIFY_RECEIVERS")
    monkeypatch.setattr(outbox, "_KEEP_MS", 60_000)
    with store.transaction() as session:
        outbox.forget_old(session)
    assert _due(store, label) is not None
    monkeypatch.setattr(outbox, "_KEEP_MS", -60_000)
    # nor is it sent to a receiver that is set again, before anybody has removed it
    assert _due(store, label) is None
    with store.sessions() as session:
        assert outbox.next_at_ms(session, label) is None
    with store.transaction() as session:
        outbox.forget_old(session)
    with store.sessions() as session:
        assert all(row["receiver"] != label for row in outbox.overview(session))


def test_old_messages__go_without_receivers__once_a_request_has_opened_the_registry(
    sqlite_store: LifecycleStore, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_store.transaction() as session:
        outbox.add(session, EVENT)
    monkeypatch.delenv("NOTIFY_RECEIVERS")
    monkeypatch.setattr(outbox, "_KEEP_MS", -60_000)

    def kept() -> list[str]:
        with sqlite_store.sessions() as session:
            return [row["receiver"] for row in outbox.overview(session)]

    # opened by this thread and by a request at once, a new database would be made twice
    opened = SimpleNamespace(_model_registry_store=None)
    monkeypatch.setitem(sys.modules, "mlflow.server.handlers", cast("ModuleType", opened))
    assert not delivery._forget_old()
    assert (kept(), opened._model_registry_store) == ([label], None)
    opened._model_registry_store = sqlite_store
    assert delivery._forget_old()
    assert kept() == []


def test_stores__are_opened_before_any_thread_begins_to_send(
    sqlite_store: LifecycleStore, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Thread:
        def __init__(self, *, name: str, **_: object) -> None:
            self.name = name

        def start(self) -> None:
            happened.append(self.name)

    def registry() -> LifecycleStore:
        happened.append("registry")
        return sqlite_store

    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: happened.append("runs"))
    monkeypatch.setattr(handlers, "_get_model_registry_store", registry)
    monkeypatch.setattr(delivery, "threading", SimpleNamespace(Thread=Thread, Event=threading.Event))
    monkeypatch.setattr(outbox, "wakers", set())
    delivery.start()
    assert happened == ["runs", "registry", "notify-clean-up", f"notify-{label}"]
    monkeypatch.delenv("NOTIFY_RECEIVERS")
    happened.clear()
    delivery.start()
    assert happened == ["notify-clean-up"]  # which waits until a request has opened them


def test_message_of_a_newer_release__is_read_as_far_as_it_is_known() -> None:
    assert Event.of_json({**EVENT.as_json(), "colour": "green"}) == EVENT
    assert "ann" in Event.of_json({**EVENT.as_json(), "kind": "applause"}).headline
