"""ConcurrencyLimiter and semaphore against a plain reading of what they promise."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.concurrency import ConcurrencyLimiter, FairSemaphore, LimitReachedError, RenewableTimeout


@given(
    most=st.integers(0, 12),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60),
)
def test_limiter__any_order__as_many_as_are_free(most: int, steps: list[tuple[str, bool]]) -> None:
    limiter = ConcurrencyLimiter(most)
    held: dict[str, list[ExitStack]] = {name: [] for name in "abc"}
    for tenant, comes in steps:
        free = most - sum(map(len, held.values()))
        if not comes:
            if held[tenant]:
                held[tenant].pop().close()
            continue
        stack = ExitStack()
        try:
            stack.enter_context(limiter.hold(tenant))
        except LimitReachedError:
            assert len(held[tenant]) >= free
        else:
            assert len(held[tenant]) < free
            held[tenant].append(stack)
    assert limiter._held == {name: len(stacks) for name, stacks in held.items() if stacks}
    for stack in chain.from_iterable(held.values()):
        stack.close()
    assert limiter._free == most
    assert not limiter._held


def test_semaphore__many_wait__tenants_in_rotation_each_in_its_order() -> None:
    order: list[str] = []

    async def use(semaphore: FairSemaphore, tenant: str, number: int) -> None:
        await semaphore.acquire(tenant)
        order.append(f"{tenant}{number}")
        await asyncio.sleep(0)
        semaphore.release()

    async def main() -> None:
        semaphore = FairSemaphore(1, max_waiting=100)
        await semaphore.acquire("somebody")
        tasks = [asyncio.create_task(use(semaphore, "a", number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(use(semaphore, "b", number)) for number in range(2)]
        await asyncio.sleep(0)
        semaphore.release()
        await asyncio.gather(*tasks)
        await semaphore.acquire("a")  # it is free again

    asyncio.run(main())
    assert order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["comes", "leaves", "ends"])), max_size=80),
)
def test_semaphore__any_order__never_too_many_and_none_is_lost(
    limit: int, steps: list[tuple[str, str]]
) -> None:
    """Also where one leaves at the moment its turn comes."""

    async def main() -> None:
        semaphore = FairSemaphore(limit, max_waiting=1000)
        under_way: list[str] = []
        ends: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def use(tenant: str, end: asyncio.Event) -> None:
            await semaphore.acquire(tenant)
            under_way.append(tenant)
            assert len(under_way) <= limit
            try:
                await end.wait()
            finally:
                under_way.remove(tenant)
                semaphore.release()

        for tenant, what in steps:
            if what == "comes":
                ends.append(asyncio.Event())
                tasks.append(asyncio.create_task(use(tenant, ends[-1])))
                await asyncio.sleep(0)
            elif tasks and what == "leaves":
                tasks[len(tenant + what) % len(tasks)].cancel()
            elif ends:
                ends.pop(0).set()
        for end in ends:
            end.set()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
        for _ in range(limit):
            await asyncio.wait_for(semaphore.acquire("last"), 1)
        assert not semaphore._waiters

    asyncio.run(main())


def test_timeout__renewed__lasts_as_long_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeout = RenewableTimeout(0.2)
        started = loop.time()
        loop.call_later(0.1, timeout.renew)
        with pytest.raises(TimeoutError):
            async with timeout:
                await asyncio.sleep(5)
        assert 0.25 < loop.time() - started < 2
        assert not timeout.renew()

    asyncio.run(main())
