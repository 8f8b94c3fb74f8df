"""A lease while the database refuses."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from ai_hub.exports import claims, lease
from ai_hub.exports.failures import may_pass
from ai_hub.exports.lease import CancelledError, Lease, RanOutError
from ai_hub.exports.reading import Interrupt


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    monkeypatch.setattr(lease, "_RENEW_S", 0.05)
    monkeypatch.setattr(lease, "_LOOK_S", 0.01)
    monkeypatch.setattr(claims, "LEASE_S", 1.0)
    return Interrupt()


def _lease(interrupt: Interrupt) -> Lease:
    job: Any = SimpleNamespace(export_id=uuid4())
    settings: Any = None
    return Lease(settings, job, threading.Event(), interrupt)


def _until_requested(interrupt: Interrupt) -> float:
    started = time.monotonic()
    while not interrupt.requested:
        assert time.monotonic() < started + 30
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.parametrize(
    "error", [psycopg.errors.ReadOnlySqlTransaction(), RuntimeError()], ids=["sql", "other"]
)
def test_any_error__is_not_the_end_of_renewing(
    interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error]

    def renew(*_: object) -> bool:
        if errors:
            raise errors.pop()
        return True

    monkeypatch.setattr(claims, "renew", renew)
    with _lease(interrupt) as kept:
        _until_requested(interrupt)
        with pytest.raises(CancelledError):
            kept.check()


def test_lease_that_runs_out__ends_the_work(interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch) -> None:
    def renew(*_: object) -> bool:
        raise psycopg.errors.ReadOnlySqlTransaction

    monkeypatch.setattr(claims, "renew", renew)
    with _lease(interrupt) as kept:
        assert _until_requested(interrupt) > 0.9
        assert kept.ran_out
        with pytest.raises(RanOutError) as caught:
            kept.check()
    assert may_pass(caught.value)
