"""The process that works through the export jobs of all tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

_PAUSE_S = 1.0


def run(stop: threading.Event, *, once: bool = False) -> None:
    """Do jobs until `stop` is set; with `once`, until none waits."""
    while not stop.is_set() and not once:
        stop.wait(_PAUSE_S)
