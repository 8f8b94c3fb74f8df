"""Work on many files at once, which ends with the first failure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORKERS: Final = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in their order; after a failure nothing new is begun."""
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
