"""Tasks: a task runs the jobs of one kind; a worker gets one for each kind that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from ai_hub.jobs.lease import Lease
    from ai_hub.jobs.queue import Job


@dataclass(frozen=True)
class RetryStrategy:
    """How often a job is tried, counting workers that died with it."""

    max_attempts: int = 3
    #: seconds after the first, the second, … failure that may pass by itself; the last one for all later ones
    pauses_s: tuple[float, ...] = (5.0, 20.0)

    def pause(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        return self.pauses_s[min(attempts, len(self.pauses_s)) - 1]


DEFAULT_RETRY: Final = RetryStrategy()


class Attempt(Protocol):
    """One attempt at an acquired job."""

    def clean(self) -> None:
        """Remove what this attempt and earlier ones have left; what has a greater fence stays.

        Called before `run`, after it where it did not complete the job, and for failed jobs whose store was
        away at the end.
        """

    def run(self, lease: Lease) -> dict[str, Any]:
        """Do the work and return its result, which JSON can hold.

        It sets `lease.progress`, calls `lease.check()` between its steps, and `lease.confirm()` right before
        what cannot be undone.
        """


class Task(Protocol):
    """Does jobs of one kind."""

    @property
    def kind(self) -> str:
        """Name of the kind, as `jobs` has it."""

    @property
    def retry(self) -> RetryStrategy:
        """How often it tries, and after which pauses."""

    def attempt(self, job: Job) -> Attempt:
        """An attempt at the job, which has not begun."""

    def maintain(self) -> None:
        """What a worker does every few seconds while no job waits."""
