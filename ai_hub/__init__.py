"""AI Hub: feature store and model registry of a multi-tenant energy-management suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_hub.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the clients when somebody asks for them: commands that do not need them start faster."""
    if name in {"AsyncClient", "Client"}:
        from ai_hub import client  # noqa: PLC0415  # see above

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
