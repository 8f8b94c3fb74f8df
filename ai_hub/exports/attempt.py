"""An attempt at a claimed job, whatever becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from feast import FeatureStore

from ai_hub.exports import claims, running, writing
from ai_hub.exports.failures import is_defect, may_pass, reason
from ai_hub.exports.jobs import CANCELLED
from ai_hub.exports.lease import CancelledError, Lease, RanOutError, StoppedError
from ai_hub.exports.reading import Interrupt
from ai_hub.exports.targets import target_of
from ai_hub.features.store import open_store
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from ai_hub.exports.jobs import Job
    from ai_hub.exports.targets import Target

_log = structlog.get_logger(__name__)
_DIED: Final = "Its workers ended {attempts} times before it was done; their logs may say why."
#: Seconds after the first and the second failure that may pass by itself.
_PAUSES_S: Final = (5.0, 20.0)


@dataclass
class Attempts:
    """Works on jobs with these settings."""

    settings: Settings
    stop: threading.Event
    on_chunk: Callable[[int, int], None] = lambda _done, _total: None
    _store: FeatureStore | None = field(default=None, init=False)

    def make(self, job: Job) -> str:
        """Do a claimed job and record what came of it; returns that for logs and metrics."""
        log = _log.bind(export_id=str(job.export_id), tenant=job.tenant_id, attempt=job.attempts)
        interrupt = Interrupt()
        target: Target | None = None
        # kept to the end: cleaning up can take longer than a lease
        with Lease(self.settings, job, self.stop, interrupt) as lease:
            try:
                target = target_of(self.settings, job)
                target.clean()
                if job.cancel_requested:
                    raise CancelledError  # noqa: TRY301  # of a worker that died meanwhile
                if job.attempts > claims.MOST_ATTEMPTS:
                    return self._fail(job, target, _DIED.format(attempts=claims.MOST_ATTEMPTS))
                written, version = self._write(job, target, interrupt, lease)
                if not claims.complete(self.settings, job, written, version):
                    raise CancelledError  # noqa: TRY301  # at the last moment
            except Exception as raised:  # each has to be recorded
                # and not what has become of an interrupted query
                error = RanOutError() if lease.ran_out else raised
                outcome = self._ended(job, target, error)
                log.warning("export_not_completed", outcome=outcome, reason=reason(error))
                if outcome == "failed" and is_defect(error):
                    log.exception("export_failed")
                return outcome
        log.info("export_completed", rows=written.rows, bytes=written.size)
        return "completed"

    def _write(
        self, job: Job, target: Target, interrupt: Interrupt, lease: Lease
    ) -> tuple[writing.Written, str]:
        def on_chunk(done: int, total: int) -> None:
            lease.progress = done / total
            self.on_chunk(done, total)
            lease.check()

        if self._store is None:
            self._store = open_store(self.settings)
        self._store.refresh_registry()  # type: ignore[no-untyped-call]
        lease.check()
        files, plan = running.write(
            self._store, job, target, interrupt, on_chunk, shared_backend=claims.is_shared(self.settings)
        )
        partitioned = job.partition_by is not None
        lease.confirm()
        place = target.publish(writing.manifest(files) if partitioned else None)
        return writing.summary(files, place, partitioned=partitioned), plan.version

    def _ended(self, job: Job, target: Target | None, error: Exception) -> str:
        """Record how an attempt ended that did not complete the job."""
        cancelled = claims.renew_surely(self.settings, job)
        if cancelled is None:
            # the next attempt has removed its files
            return "lost"
        if self.stop.is_set() or isinstance(error, StoppedError):
            return self._give_back(job, target, forgive=True)
        if cancelled:
            return self._fail(job, target, CANCELLED)
        if may_pass(error) and job.attempts < claims.MOST_ATTEMPTS:
            return self._give_back(job, target, pause_s=_PAUSES_S[job.attempts - 1])
        return self._fail(job, target, reason(error))

    def _give_back(
        self, job: Job, target: Target | None, *, pause_s: float = 0, forgive: bool = False
    ) -> str:
        _abandon(target)
        mine = claims.give_back(self.settings, job, pause_s=pause_s, forgive=forgive)
        return "given back" if mine else "lost"

    def _fail(self, job: Job, target: Target | None, why: str) -> str:
        clean = _abandon(target)
        if not claims.fail(self.settings, job, why, leaves_files=not clean):
            return "lost"
        return "cancelled" if why == CANCELLED else "failed"


def _abandon(target: Target | None) -> bool:
    """Whether nothing is left there; otherwise the next attempt removes it, or `leftovers`."""
    try:
        if target is not None:
            target.abandon()
    except (OSError, BotoCoreError, ClientError):
        return False
    return True
