from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ai_hub.features.online.rows import BoundedCache


@given(st.lists(st.integers(0, 19), max_size=80))
def test_cache__any_order__what_was_put_last_and_never_too_much(keys: list[int]) -> None:
    cache: BoundedCache[str] = BoundedCache(capacity=8)
    expected: dict[int, str] = {}
    for number, key in enumerate(keys):
        cache.put(key, f"{number}")
        expected[key] = f"{number}"
        there = [each for each in expected if cache.get_all([each]) is not None]
        assert key in there
        assert len(there) <= 8
        assert cache.get_all(there) == [expected[each] for each in there]
        assert cache.get_all([*there, "never"]) is None


def test_cache__nothing_is_asked_for_again__rests_and_tries_again() -> None:
    cache: BoundedCache[int] = BoundedCache(capacity=10)
    kept = 0
    for number in range(400):
        if cache.is_enabled(1):
            assert cache.get_all([number]) is None
            cache.put(number, number)
            kept += 1
    assert 20 <= kept <= 60


def test_cache__asked_for_again__keeps_on() -> None:
    cache: BoundedCache[int] = BoundedCache(capacity=10)
    for number in range(400):
        assert cache.is_enabled(1)
        cache.put(number, number)
        for _ in range(2):
            assert cache.get_all([number]) == [number]
