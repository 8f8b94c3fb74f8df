"""The loop around a follower: one pass after another, through outages, until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import redis.exceptions
import sqlalchemy.exc
from tenacity import Retrying, retry_if_exception, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from ai_hub.database.refresh import refresh as refresh_features
from ai_hub.errors import ServiceDownError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from tenacity import RetryCallState

    from ai_hub.features.materialize import Follower, Pass

_OUTAGES = (
    ServiceDownError,
    psycopg.OperationalError,
    # Feast's registry
    sqlalchemy.exc.OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)
_LONGEST_WAIT_S = 60


def follow(
    follower: Follower,
    stop: threading.Event,
    *,
    interval: float,
    refresh: bool,
    on_pass: Callable[[Pass], None],
    on_outage: Callable[[BaseException, float], None],
) -> None:
    """Make a pass every `interval` seconds until `stop` is set; a pass under way is finished first.

    With `refresh`, features are refreshed before each pass. While a server is down, passes are tried again
    after growing waits, each told to `on_outage` with the error and the seconds until the next try.
    """

    def told(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None and state.next_action is not None:
            on_outage(error, state.next_action.sleep)

    def attempt() -> None:
        if refresh:
            refresh_features()
        on_pass(follower.catch_up())

    while not stop.is_set():
        Retrying(
            retry=retry_if_exception(_is_outage),
            wait=wait_exponential(max=_LONGEST_WAIT_S),
            stop=stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=told,
            retry_error_callback=lambda _: None,
        )(attempt)
        stop.wait(interval)


def _is_outage(error: BaseException) -> bool:
    # a wrong password stays wrong
    return isinstance(error, _OUTAGES) and not isinstance(error, redis.exceptions.AuthenticationError)
