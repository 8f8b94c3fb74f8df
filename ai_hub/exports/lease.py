"""Keeps a job while it is worked on, and tells the work when it has to end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

import structlog

from ai_hub.errors import AiHubError
from ai_hub.exports import claims

if TYPE_CHECKING:
    from types import TracebackType

    from ai_hub.exports.jobs import Job
    from ai_hub.exports.reading import Interrupt
    from ai_hub.settings import Settings

_RENEW_S: Final = 2.0
_LOOK_S: Final = 0.1
_log = structlog.get_logger(__name__)


class MustEndError(Exception):
    """The work is to end now."""


class StoppedError(MustEndError):
    """The process is to end."""


class CancelledError(MustEndError):
    """Somebody has cancelled the job."""


class LostError(MustEndError):
    """The job is somebody else's by now."""


class RanOutError(MustEndError, AiHubError):
    """The job may be somebody else's by now, because the database has not answered."""

    retryable = True


class Lease:
    """In its block the job is renewed, also while it is being ended.

    The query under way is ended as soon as the work has to end.
    """

    def __init__(self, settings: Settings, job: Job, stop: threading.Event, interrupt: Interrupt) -> None:
        self.progress = 0.0
        self._settings = settings
        self._job = job
        self._stop = stop
        self._interrupt = interrupt
        self._done = threading.Event()
        self._reason: type[MustEndError] | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def ran_out(self) -> bool:
        """Whether the work had to end because the job could not be renewed."""
        return self._reason is RanOutError

    def check(self) -> None:
        """Raise `MustEndError` if the work has to end."""
        if self._stop.is_set():
            raise StoppedError
        if self._reason is not None:
            raise self._reason

    def confirm(self) -> None:
        """Make sure of the job once more, right before what cannot be undone; raises `MustEndError`."""
        self.check()
        self._judge(claims.renew_surely(self._settings, self._job, self.progress))
        self.check()

    def _keep(self) -> None:
        renewed = tried = time.monotonic()
        while not self._done.wait(_LOOK_S):
            if time.monotonic() >= tried + _RENEW_S:
                tried = time.monotonic()
                try:
                    self._judge(claims.renew(self._settings, self._job, self.progress))
                    renewed = tried
                except Exception as error:  # noqa: BLE001  # without this thread the job is soon lost
                    _log.warning("not_renewed", export_id=str(self._job.export_id), reason=str(error))
                    if time.monotonic() > renewed + claims.LEASE_S:
                        self._reason = self._reason or RanOutError
            if (self._stop.is_set() or self._reason is not None) and not self._interrupt.requested:
                self._interrupt.request()
            if self._reason is LostError:
                return

    def _judge(self, cancelled: bool | None) -> None:
        if cancelled is None:
            self._reason = LostError
        elif cancelled:
            self._reason = CancelledError
