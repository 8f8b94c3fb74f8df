"""Which file of tests a worker gets next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

#: No module of tests that need a database takes longer; they wait for the next hour rather than see one end.
LONGEST_MODULE_S: Final = 120
#: Two tests of the module before may still be to come.
_BEFORE_S: Final = 30
_WAITING: Final = "tests/integration/"


def seconds_left() -> float:
    """Seconds to the end of the hour."""
    now = datetime.now(UTC)
    return 3600 - (now.minute * 60 + now.second + now.microsecond / 1e6)


class FileScheduling(LoadFileScheduling):
    """File by file in their order; near the end of an hour those first that do not wait for the next."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if seconds_left() < LONGEST_MODULE_S + _BEFORE_S:
            files = (file for file in self.workqueue if not file.startswith(_WAITING))
            if file := next(files, None):
                self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
