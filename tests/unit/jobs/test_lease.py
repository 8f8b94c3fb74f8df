"""A lease while the database refuses."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from ai_hub.jobs import queue, worker
from ai_hub.jobs.worker import CancelledError, ExpiredError, Lease, may_pass


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the work has to end."""
    monkeypatch.setattr(worker, "_RENEW_S", 0.05)
    monkeypatch.setattr(worker, "_LOOK_S", 0.01)
    monkeypatch.setattr(queue, "LEASE_S", 1.0)
    return threading.Event()


def _lease(interrupted: threading.Event) -> Lease:
    job: Any = SimpleNamespace(job_id=uuid4())
    settings: Any = None
    found = Lease(settings, job, threading.Event())
    found.on_end(interrupted.set)
    return found


@pytest.mark.parametrize(
    "error", [psycopg.errors.ReadOnlySqlTransaction(), RuntimeError()], ids=["sql", "other"]
)
def test_any_error__is_not_the_end_of_renewing(
    interrupted: threading.Event, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error]

    def renew(*_: object) -> bool:
        if errors:
            raise errors.pop()
        return True

    monkeypatch.setattr(queue, "renew", renew)
    with _lease(interrupted) as kept:
        assert interrupted.wait(30)
        with pytest.raises(CancelledError):
            kept.check()


def test_lease_that_runs_out__ends_the_work(
    interrupted: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew(*_: object) -> bool:
        raise psycopg.errors.ReadOnlySqlTransaction

    monkeypatch.setattr(queue, "renew", renew)
    started = time.monotonic()
    with _lease(interrupted) as kept:
        assert interrupted.wait(30)
        assert time.monotonic() > started + 0.9
        assert kept.has_expired
        with pytest.raises(ExpiredError) as caught:
            kept.check()
    assert may_pass(caught.value)
