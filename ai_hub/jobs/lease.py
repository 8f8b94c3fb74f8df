"""The lease of a job: renewed while the job is done, and the reason why the work must end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

import structlog

from ai_hub.errors import AiHubError
from ai_hub.jobs import queue

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ai_hub.jobs.queue import Job
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
    """Another worker has the job."""


class ExpiredError(MustEndError, AiHubError):
    """Another worker may have the job, because the database has not answered."""

    retryable = True


class Lease:
    """In its block the lease is renewed, also while the job is being ended."""

    def __init__(self, settings: Settings, job: Job, stop: threading.Event) -> None:
        #: share of the work that is done, 0 to 1
        self.progress = 0.0
        self._settings = settings
        self._job = job
        self._stop = stop
        self._interrupt: Callable[[], None] | None = None
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
    def has_expired(self) -> bool:
        """Whether the work had to end because the lease could not be renewed."""
        return self._reason is ExpiredError

    def on_end(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt` once, in another thread, as soon as the work has to end."""
        self._interrupt = interrupt

    def check(self) -> None:
        """Raise `MustEndError` if the work has to end."""
        if self._stop.is_set():
            raise StoppedError
        if self._reason is not None:
            raise self._reason

    def confirm(self) -> None:
        """Make sure of the job once more, right before what cannot be undone; raises `MustEndError`."""
        self.check()
        self._judge(queue.renew_with_retry(self._settings, self._job, self.progress))
        self.check()

    def _keep(self) -> None:
        renewed = tried = time.monotonic()
        while not self._done.wait(_LOOK_S):
            if time.monotonic() >= tried + _RENEW_S:
                tried = time.monotonic()
                try:
                    self._judge(queue.renew(self._settings, self._job, self.progress))
                    renewed = tried
                except Exception as error:  # noqa: BLE001  # without this thread the job is soon lost
                    _log.warning("lease.renewal_failed", job_id=str(self._job.job_id), reason=str(error))
                    if time.monotonic() > renewed + queue.LEASE_S:
                        self._reason = self._reason or ExpiredError
            if (self._stop.is_set() or self._reason is not None) and self._interrupt is not None:
                interrupt, self._interrupt = self._interrupt, None
                interrupt()
            if self._reason is LostError:
                return

    def _judge(self, cancelled: bool | None) -> None:
        if cancelled is None:
            self._reason = LostError
        elif cancelled:
            self._reason = CancelledError
