"""The process that works through the export jobs of all tenants."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from ai_hub.errors import ServiceDownError
from ai_hub.exports import claims, files, leftovers
from ai_hub.exports.attempt import Attempts
from ai_hub.exports.metrics import ATTEMPTS
from ai_hub.settings import Settings

if TYPE_CHECKING:
    import threading

_PAUSE_S: Final = (0.2, 2.0)
_LONGEST_OUTAGE_PAUSE_S: Final = 10.0
#: How often to look for files that failed jobs have left.
_CLEAN_S: Final = 10.0
_log = structlog.get_logger(__name__)


def name() -> str:
    """A name for this worker that no other one has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def run(stop: threading.Event, *, once: bool = False, settings: Settings | None = None) -> None:
    """Do jobs until `stop` is set; with `once`, until none waits. Goes on through outages of the database."""
    settings = settings or Settings()
    attempts = Attempts(settings, stop)
    me = name()
    pause = _PAUSE_S[0]
    clean_at = 0.0
    while not stop.is_set():
        try:
            job = claims.claim(settings, me)
            if job is not None:
                ATTEMPTS.labels(attempts.make(job)).inc()
                pause = _PAUSE_S[0]
                continue
            if time.monotonic() >= clean_at:
                clean_at = time.monotonic() + _CLEAN_S
                leftovers.remove(settings)
                files.expire(settings)
        except (ServiceDownError, psycopg.Error) as error:
            if once:
                raise
            _log.warning("waiting", reason=str(error))
            stop.wait(min(5 * pause, _LONGEST_OUTAGE_PAUSE_S))
        if once:
            return
        stop.wait(pause)
        pause = min(pause * 1.5, _PAUSE_S[1])
