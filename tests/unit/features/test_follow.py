from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis.exceptions

from ai_hub.errors import BadInputError, ServiceDownError
from ai_hub.features import materialize as module
from ai_hub.features.materialize import Pass

if TYPE_CHECKING:
    from collections.abc import Callable

PASS = Pass(refreshes=0)


class Follower:
    """Gives or raises one thing after the other, then stops the loop."""

    def __init__(self, stop: threading.Event, *outcomes: Pass | BaseException) -> None:
        self.stop = stop
        self.outcomes = list(outcomes)

    def catch_up(self) -> Pass:
        outcome = self.outcomes.pop(0)
        if not self.outcomes:
            self.stop.set()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def run(*outcomes: Pass | BaseException, refresh: bool = False) -> tuple[list[Pass], list[str]]:
    stop = threading.Event()
    passes: list[Pass] = []
    outages: list[str] = []
    follower: Any = Follower(stop, *outcomes)
    module.follow(
        follower,
        stop,
        interval=0,
        refresh=refresh,
        on_pass=passes.append,
        on_outage=lambda error, wait: outages.append(f"{type(error).__name__} {wait:g}"),
    )
    return passes, outages


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep_using_event(stop: threading.Event) -> Callable[[float], None]:
        return lambda seconds: stop.wait(min(seconds, 0)) and None

    monkeypatch.setattr(module, "sleep_using_event", sleep_using_event)


def test_follow__outages__are_told_and_waited_out_with_growing_pauses() -> None:
    down = ServiceDownError("Redis", "127.0.0.1:1", "refused")
    passes, outages = run(
        PASS, down, psycopg.OperationalError("gone"), redis.exceptions.TimeoutError("slow"), PASS, down, PASS
    )
    assert passes == [PASS, PASS, PASS]
    assert outages == ["ServiceDownError 1", "OperationalError 2", "TimeoutError 4", "ServiceDownError 1"]


@pytest.mark.parametrize(
    "error", [BadInputError("no"), redis.exceptions.AuthenticationError("wrong password")]
)
def test_follow__what_waiting_does_not_mend__ends_it(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(error, PASS)


def test_follow__stopped_during_an_outage__ends_quietly() -> None:
    passes, outages = run(PASS, redis.exceptions.ConnectionError("refused"))
    assert passes == [PASS]
    assert outages == []
