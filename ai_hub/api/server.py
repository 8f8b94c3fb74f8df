"""The server's processes: workers that answer requests, and one that runs export jobs."""

from __future__ import annotations

import gc
import glob
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvicorn

from ai_hub.access.tokens import is_loopback, provider_url
from ai_hub.api.http_protocol import BoundedProtocol
from ai_hub.errors import BadInputError
from ai_hub.imports import skip_type_checks
from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastapi import FastAPI

_KEEP_ALIVE_S = 75
_SHUTDOWN_S = 20
#: Both names: Feast sets them, too, and prometheus_client reads one of them when it is first imported.
_METRICS_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
WORKER = ("worker", "--while-stdin-open")
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
#: After this long the next restart waits briefly again.
_STABLE_S = 60.0
_STOP_S = 15.0
_log = structlog.get_logger("ai_hub.supervisor")
_WARNING = """\
WARNING: AI_HUB_API_AUTH=off. Whoever reaches this service reads and changes everything of every tenant,
without a key. This is for development on your own machine only.
"""


def serve(host: str, port: int, *, workers: int, export_worker: bool) -> None:
    """Serve with `workers` processes; SIGTERM lets requests under way finish.

    With `export_worker`, a process beside them runs export jobs, and is started again whenever it ends.
    """
    # the web server re-raises the signal after it has shut down; the context managers must still exit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _metrics_folder(), supervised(WORKER) if export_worker else nullcontext():
        _fork_workers()
        uvicorn.run(
            "ai_hub.api.server:create_logged_app",
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


def _fork_workers() -> None:
    """Let uvicorn fork its workers from a process that has imported the service, whose memory they share.

    That process is one of multiprocessing's, as forking this one, which has threads, could keep their locks
    held. It starts with the first of several workers.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ai_hub.api.preload"])
    uvicorn._subprocess.spawn = context  # type: ignore[assignment]  # noqa: SLF001  # uvicorn has no option for it


def create_logged_app() -> FastAPI:
    """The service, with its logs where the settings say; each process calls this."""
    skip_type_checks()
    # imported here: what counts metrics must not be loaded before their folder is known
    from ai_hub.api import logs, observability  # noqa: PLC0415
    from ai_hub.api.app import create_app  # noqa: PLC0415

    # each worker that dies is followed by another
    observability.remove_dead_workers()
    options = ServiceSettings()
    logs.configure(options)
    app = create_app(options)
    # garbage collection of what was imported would stop all requests for 200 ms
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


@contextmanager
def supervised(arguments: Sequence[str]) -> Iterator[None]:
    """Run `ai-hub ARGUMENTS` in this block, again whenever it ends.

    It holds the read end of a pipe as its standard input: when this process is gone, however that came, the
    pipe closes, and the command must stop.
    """
    supervisor = _Supervisor([sys.executable, "-m", "ai_hub.cli", *arguments])
    thread = threading.Thread(target=supervisor.run, name=f"supervisor of {arguments[0]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        supervisor.stop()
        thread.join()


class _Supervisor:
    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        wait = _FIRST_WAIT_S
        while not self._stopping.is_set():
            started = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    return
                process = self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            status = process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if self._stopping.is_set():
                return
            wait = _FIRST_WAIT_S if time.monotonic() - started > _STABLE_S else min(2 * wait, _LONGEST_WAIT_S)
            _log.error("process.ended", command=self._command[-1:], status=status, again_in_s=wait)
            self._stopping.wait(wait)

    def stop(self) -> None:
        """Close its input, then make sure that it goes."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is None:
            return
        process.terminate()
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_development_mode(options: ServiceSettings, host: str) -> None:
    """Make sure that a service without authentication stays on this machine, and say so loudly.

    Raises:
        BadInputError: others could reach it; or the OpenID settings cannot work.
    """
    provider_url(options)
    if options.auth != "off":
        return
    if not is_loopback(host):
        raise BadInputError(
            f"AI_HUB_API_AUTH=off would open every tenant's data to whoever reaches {host}.",
            hint="Serve on 127.0.0.1, or leave AI_HUB_API_AUTH out and use keys (`ai-hub keys create`).",
        )
    sys.stderr.write(_WARNING)
