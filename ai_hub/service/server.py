"""Runs the service until it is stopped: processes that answer, and one that writes exports."""

from __future__ import annotations

import gc
import glob
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from ai_hub.imports import skip_type_checks
from ai_hub.service.http_protocol import BoundedProtocol
from ai_hub.service.settings import ServiceSettings
from ai_hub.service.supervisor import supervised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

_KEEP_ALIVE_S = 75
_SHUTDOWN_S = 20
#: Both names: Feast sets them, too, and prometheus_client reads one of them when it is first imported.
_METRICS_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
EXPORT_WORKER = ("export-worker", "--while-stdin-open")


def serve(host: str, port: int, *, workers: int, export_worker: bool) -> None:
    """Serve with `workers` processes; SIGTERM lets requests under way finish.

    With `export_worker`, a process beside them runs export jobs, and is started again whenever it ends.
    """
    # the web server passes a signal on when it has shut down; what follows here must still be done
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _metrics_folder(), supervised(EXPORT_WORKER) if export_worker else nullcontext():
        uvicorn.run(
            "ai_hub.service.server:create_logged_app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            access_log=False,
            log_config=None,
            http=BoundedProtocol,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )


def create_logged_app() -> FastAPI:
    """The service, with its logs where the settings say; each process calls this."""
    skip_type_checks()
    # imported here: what counts metrics must not be loaded before their folder is known
    from ai_hub.service.app import create_app  # noqa: PLC0415
    from ai_hub.service.observability import logging, metrics  # noqa: PLC0415

    # each worker that dies is followed by another
    metrics.forget_the_dead()
    options = ServiceSettings()
    logging.configure(options)
    app = create_app(options)
    # what was imported stays: to look through it for garbage stops every request for a fifth of a second
    gc.collect()
    gc.freeze()
    return app


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """Where the processes put their metrics, so that each of them can show all."""
    _remove_orphans()
    with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-") as folder:
        for name in _METRICS_VARIABLES:
            os.environ[name] = str(Path(folder))
        yield


def _prefix() -> str:
    # processes of other machines and containers may share the folder, and their numbers mean nothing here
    return f"ai-hub-metrics-{socket.gethostname()}-"


def _remove_orphans() -> None:
    """Remove what services of this user left in the temporary folder when they were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(_prefix())}*"):
        process = folder.name.removeprefix(_prefix()).partition("-")[0]
        with suppress(OSError):
            is_ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if process.isdecimal() and is_ours and not _lives(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
