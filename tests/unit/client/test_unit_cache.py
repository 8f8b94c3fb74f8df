from __future__ import annotations

from ai_hub.client import predictions
from ai_hub.client.predictions import UnitCache


class _Asset(str):
    """An asset at whose first look-up another thread empties the cache."""

    __slots__ = ("cache", "looks")

    cache: UnitCache
    looks: int

    def __hash__(self) -> int:
        self.looks += 1
        if self.looks == 1:
            self.cache.put(["b"] * (predictions._UNITS + 1), {})
        return super().__hash__()


def test_units__another_thread_empties_the_cache__are_those_of_before() -> None:
    asset = _Asset("a")
    asset.cache, asset.looks = UnitCache(), 0
    asset.cache.put(["a"], {"a": "kWh"})
    assert asset.cache.get([asset]) == {"a": "kWh"}
    assert asset.cache.due(["a", "b"]) == ["a"]
