"""Keeps a command of `ai-hub` running beside the service."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
#: One that ran this long was well: the next failure waits briefly again.
_WELL_S = 60.0
_STOP_S = 15.0
_log = structlog.get_logger("ai_hub.supervisor")


@contextmanager
def supervised(arguments: Sequence[str]) -> Iterator[None]:
    """Run `ai-hub ARGUMENTS` in this block, again whenever it ends.

    It holds the read end of a pipe as its standard input: when this process is gone, however that came, the
    pipe closes, and the command must stop.
    """
    keeper = _Keeper([sys.executable, "-m", "ai_hub.cli", *arguments])
    thread = threading.Thread(target=keeper.run, name=f"keeps {arguments[0]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        keeper.stop()
        thread.join()


class _Keeper:
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
            wait = _FIRST_WAIT_S if time.monotonic() - started > _WELL_S else min(2 * wait, _LONGEST_WAIT_S)
            _log.error("ended", command=self._command[-1:], status=status, again_in_s=wait)
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
