"""Faster imports for the processes that are ours alone."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

T = TypeVar("T")


def skip_type_checks() -> None:
    """Import Feast without the run-time type checks of its constructors.

    Feast decorates its classes with `typeguard.typechecked`, which compiles each of them anew: two thirds of
    the time that importing Feast takes. The commands of `ai-hub` declare no feature views; `feast apply`,
    which reads what users declare, is a process of its own and keeps the checks.
    """
    if module := sys.modules.get("typeguard"):
        _leave_unchecked(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def collect_garbage_less_often() -> None:
    """Look for cycles of garbage after 10,000 new objects instead of 700.

    Imports make objects that stay. Looking through them again and again is about a tenth of the time that the
    libraries of a command take.
    """
    gc.set_threshold(10_000)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Libraries imported in this block find no module `name`, if nothing has imported it before.

    For those that use it where it is there: LightGBM imports scikit-learn, which takes a second, for its
    estimators of that style alone.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how Python itself marks a module that is not there
    try:
        yield
    finally:
        del sys.modules[name]


def lightgbm_knows_sklearn() -> None:
    """Give LightGBM its estimators, if it was imported `without` scikit-learn; boosters stay as they are."""
    compat = sys.modules.get("lightgbm.compat")
    if compat is not None and not compat.SKLEARN_INSTALLED:
        for name in ("lightgbm.compat", "lightgbm.sklearn", "lightgbm"):
            importlib.reload(sys.modules[name])


class _Finder(MetaPathFinder):
    """Changes `typeguard` when it is imported; most commands never do, and it takes 0.1 s."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != "typeguard":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_unchecked(module: ModuleType) -> None:
            execute(module)
            _leave_unchecked(module)

        spec.loader.exec_module = execute_unchecked  # type: ignore[method-assign]
        return spec


def _leave_unchecked(module: Any) -> None:
    module.typechecked = _unchanged


def _unchanged(target: T) -> T:
    return target
