"""Before the first promotion: what its gates import takes longer than a request may."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse

from mlflow_plugins.gates.policy import gate_class, gate_names

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class WarmUp:
    """`/health` of MLflow, which says that the server is ready once every installed gate is.

    The gates get ready in the background; other paths do not wait for them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._done = threading.Event()
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """MLflow's answer, or 503."""
        if self._done.is_set():
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("starting", 503, {"Retry-After": "1"})(scope, receive, send)

    def wait(self) -> None:
        """Return when the gates are ready."""
        self._done.wait()

    def _run(self) -> None:
        for name in gate_names():
            # A promotion that needs it meets the same failure, and says it.
            with suppress(Exception):
                gate_class(name).warm_up()
        self._done.set()
