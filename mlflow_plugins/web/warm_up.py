"""Before the first promotion: what its gates import takes longer than a request may."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Where prometheus-client shares numbers between processes. Feast sets both in whatever imports it, and
#: removes the folder when that process ends; whoever inherits them can then import Feast no more.
_METRICS: Final = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


def start() -> None:
    """Import Feast in the background, unhindered by variables of a process that has ended."""
    forget_metrics()
    threading.Thread(target=_import, name="warm-up", daemon=True).start()


def forget_metrics() -> None:
    """Unset inherited folders of metrics that are gone, or that are another process's of Feast."""
    for name in _METRICS:
        folder = os.environ.get(name)
        if folder and (not Path(folder).is_dir() or Path(folder).name.startswith("feast_metrics_")):
            del os.environ[name]


def _import() -> None:
    # A promotion that needs it meets the same failure, and says it.
    with suppress(Exception):
        from ai_hub.features.registry import find_service  # noqa: PLC0415

        find_service("")
