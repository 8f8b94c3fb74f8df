"""Before the first promotion: what its gates import takes longer than a request may."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Where prometheus-client shares numbers between processes. Feast sets both in whatever imports it, and
#: removes the folder when that process ends; whoever inherits them can then import Feast no more.
_METRICS: Final = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


class WarmUp:
    """`/health` of MLflow, which says that the server is ready once Feast is imported.

    The import runs in the background, unhindered by variables of a process that has ended; other paths do
    not wait for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._done = threading.Event()
        forget_metrics()
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """MLflow's answer, or 503."""
        if self._done.is_set():
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("starting", 503, {"Retry-After": "1"})(scope, receive, send)

    def wait(self) -> None:
        """Return when the import is done."""
        self._done.wait()

    def _run(self) -> None:
        # A promotion that needs it meets the same failure, and says it.
        with suppress(Exception):
            self._import()
        self._done.set()

    @staticmethod
    def _import() -> None:
        from ai_hub.imports import skip_type_checks  # noqa: PLC0415

        skip_type_checks()  # two thirds of the import; this server reads what others have declared
        from ai_hub.features.registry import find_service  # noqa: PLC0415

        find_service("")


def forget_metrics() -> None:
    """Unset inherited folders of metrics that are gone, or that are another process's of Feast."""
    for name in _METRICS:
        folder = os.environ.get(name)
        if folder and (not Path(folder).is_dir() or Path(folder).name.startswith("feast_metrics_")):
            del os.environ[name]
