from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ai_hub.features.online.payload import BoundedCache


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=60))
def test_cache__any_order__what_was_put_last_and_never_too_much(steps: list[tuple[int, int]]) -> None:
    cache: BoundedCache[str] = BoundedCache(capacity=8)
    expected: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for number, (key, assets) in enumerate(steps):
        cache.put(key, f"{number}", assets=assets)
        expected[key] = f"{number}"
        sizes.setdefault(key, assets)
        kept = {each: cache.get(each) for each in expected}
        assert kept[key] == f"{number}"
        assert all(value in {None, expected[each]} for each, value in kept.items())
        there = [each for each, value in kept.items() if value is not None]
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
        assert cache.get_all([number]) == [number]
        assert cache.get(number) == number
