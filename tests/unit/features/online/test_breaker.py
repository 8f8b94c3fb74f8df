from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ai_hub.concurrency import Breaker, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.05


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the breaker's pause pass, by its own clock."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("ai_hub.concurrency.time", clock)

    def later() -> None:
        now[0] += PAUSE_S * 1.2

    return later


class DownError(Exception):
    """The server is down."""


async def fail(breaker: Breaker) -> None:
    with pytest.raises(DownError), breaker:
        raise DownError


async def refused(breaker: Breaker) -> bool:
    try:
        with breaker:
            return False
    except UnavailableError:
        return True


def test_asked__failures_in_a_row__left_alone_then_asked_again(pause: Callable[[], None]) -> None:
    async def run() -> None:
        breaker = Breaker("redis", 3, PAUSE_S)
        await fail(breaker)
        await fail(breaker)
        assert not await refused(breaker)  # a success: the row begins anew
        for _ in range(3):
            assert breaker.state == "closed"
            await fail(breaker)
        assert await refused(breaker)
        pause()
        await fail(breaker)  # one try is enough
        assert await refused(breaker)
        pause()
        assert not await refused(breaker)
        assert breaker.state == "closed"

    asyncio.run(run())


def test_asked__after_the_pause__one_tries_and_no_other_waits(pause: Callable[[], None]) -> None:
    async def run() -> None:
        breaker = Breaker("redis", 1, PAUSE_S)
        await fail(breaker)
        pause()
        with breaker:
            assert await refused(breaker)
            assert await refused(breaker)
        assert not await refused(breaker)

    asyncio.run(run())


def test_asked__cancelled__no_failure_of_the_server() -> None:
    async def run() -> None:
        breaker = Breaker("redis", 1, PAUSE_S)

        async def wait() -> None:
            with breaker:
                await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await refused(breaker)

    asyncio.run(run())


def test_asked__harmless_errors__say_nothing_against_the_server() -> None:
    async def run() -> None:
        breaker = Breaker("redis", 1, PAUSE_S, harmless=(DownError,))
        for _ in range(3):
            await fail(breaker)
        assert not await refused(breaker)

    asyncio.run(run())


def test_asked__clock_set_back__pause_is_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        breaker = Breaker("redis", 1, PAUSE_S)
        await fail(breaker)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        await asyncio.sleep(PAUSE_S * 1.2)
        assert not await refused(breaker)

    asyncio.run(run())


def test_asked__try_given_up__is_no_sign_that_the_server_is_back(pause: Callable[[], None]) -> None:
    async def run() -> None:
        breaker = Breaker("redis", 1, PAUSE_S)
        await fail(breaker)
        pause()
        with pytest.raises(asyncio.CancelledError), breaker:
            raise asyncio.CancelledError
        assert await refused(breaker)
        pause()
        assert not await refused(breaker)

    asyncio.run(run())
