"""The gates that are installed, by the entry point group `ai_hub.promotion_gates`."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from mlflow_plugins.gates.gate import Gate

GROUP: Final = "ai_hub.promotion_gates"


class UnusableGateError(ValueError):
    """A policy names a gate that cannot be used."""


def gate_names() -> list[str]:
    """Every installed gate."""
    return sorted(_entry_points())


@lru_cache(maxsize=128)
def gate_class(name: str) -> type[Gate]:
    """The gate of this name.

    Raises:
        UnusableGateError: none is installed, two are, or it cannot be loaded.
    """
    found = _entry_points().get(name, [])
    if not found:
        raise UnusableGateError(f"There is no gate {name!r}. Installed: {', '.join(gate_names())}.")
    if len(found) > 1:
        owners = " and ".join(point.value for point in found)
        raise UnusableGateError(f"Gate {name!r} is installed twice, by {owners}. Uninstall one.")
    try:
        loaded = found[0].load()
    except Exception as error:
        raise UnusableGateError(
            f"Gate {name!r} ({found[0].value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Gate)):
        raise UnusableGateError(f"Gate {name!r} ({found[0].value}) is not a mlflow_plugins.gates.gate.Gate.")
    if getattr(loaded, "name", None) != name:
        raise UnusableGateError(f"Gate {name!r} ({found[0].value}) calls itself by another name.")
    return loaded


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    # an editable installation may be listed twice
    for point in dict.fromkeys(entry_points(group=GROUP)):
        found.setdefault(point.name, []).append(point)
    return found
