"""Places and turns against a plain reading of what they promise."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.concurrency import FullError, Patience, Places, Turns


@given(
    most=st.integers(0, 12),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60),
)
def test_places__any_order__as_many_as_are_free(most: int, steps: list[tuple[str, bool]]) -> None:
    places = Places(most)
    held: dict[str, list[ExitStack]] = {name: [] for name in "abc"}
    for tenant, comes in steps:
        free = most - sum(map(len, held.values()))
        if not comes:
            if held[tenant]:
                held[tenant].pop().close()
            continue
        stack = ExitStack()
        try:
            stack.enter_context(places.held(tenant))
        except FullError:
            assert len(held[tenant]) >= free
        else:
            assert len(held[tenant]) < free
            held[tenant].append(stack)
    assert places._held == Counter({name: len(stacks) for name, stacks in held.items() if stacks})
    for stack in chain.from_iterable(held.values()):
        stack.close()
    assert places._free == most
    assert not places._held


def test_turns__many_wait__tenants_in_rotation_each_in_its_order() -> None:
    order: list[str] = []

    async def use(turns: Turns, tenant: str, number: int) -> None:
        await turns.take(tenant)
        order.append(f"{tenant}{number}")
        await asyncio.sleep(0)
        turns.give_back()

    async def main() -> None:
        turns = Turns(1, 100)
        await turns.take("somebody")
        tasks = [asyncio.create_task(use(turns, "a", number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(use(turns, "b", number)) for number in range(2)]
        await asyncio.sleep(0)
        turns.give_back()
        await asyncio.gather(*tasks)
        await turns.take("a")  # it is free again

    asyncio.run(main())
    assert order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["comes", "leaves", "ends"])), max_size=80),
)
def test_turns__any_order__never_too_many_and_none_is_lost(
    at_once: int, steps: list[tuple[str, str]]
) -> None:
    """Also where one leaves at the moment its turn comes."""

    async def main() -> None:
        turns = Turns(at_once, 1000)
        under_way: list[str] = []
        ends: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def use(tenant: str, end: asyncio.Event) -> None:
            await turns.take(tenant)
            under_way.append(tenant)
            assert len(under_way) <= at_once
            try:
                await end.wait()
            finally:
                under_way.remove(tenant)
                turns.give_back()

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
        for _ in range(at_once):
            await asyncio.wait_for(turns.take("last"), 1)
        assert not turns._waiting

    asyncio.run(main())


def test_patience__renewed__lasts_as_long_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        patience = Patience(0.2)
        started = loop.time()
        loop.call_later(0.1, patience.renew)
        with pytest.raises(TimeoutError):
            async with patience:
                await asyncio.sleep(5)
        assert 0.25 < loop.time() - started < 2
        assert not patience.renew()

    asyncio.run(main())
