from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ai_hub.features.online.payload import Memo


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=60))
def test_memo__any_order__what_was_put_last_and_never_too_much(steps: list[tuple[int, int]]) -> None:
    memo: Memo[str] = Memo(most=8)
    expected: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for number, (key, assets) in enumerate(steps):
        memo.put(key, f"{number}", assets=assets)
        expected[key] = f"{number}"
        sizes.setdefault(key, assets)
        kept = {each: memo.get(each) for each in expected}
        assert kept[key] == f"{number}"
        assert all(value in {None, expected[each]} for each, value in kept.items())
        there = [each for each, value in kept.items() if value is not None]
        assert len(there) <= 8
        assert memo.all(there) == [expected[each] for each in there]
        assert memo.all([*there, "never"]) is None


def test_memo__nothing_is_asked_for_again__rests_and_tries_again() -> None:
    memo: Memo[int] = Memo(most=10)
    kept = 0
    for number in range(400):
        if memo.is_worth(1):
            assert memo.all([number]) is None
            memo.put(number, number)
            kept += 1
    assert 20 <= kept <= 60


def test_memo__asked_for_again__keeps_on() -> None:
    memo: Memo[int] = Memo(most=10)
    for number in range(400):
        assert memo.is_worth(1)
        memo.put(number, number)
        assert memo.all([number]) == [number]
        assert memo.get(number) == number
