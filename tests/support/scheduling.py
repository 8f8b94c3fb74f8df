"""Which file of tests a worker gets next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """File by file: those of one folder go to one worker while there are others, as they share servers.

    Else in their order; near the end of an hour those first that do not wait for the next.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        near = seconds_left() < LONGEST_MODULE_S + _BEFORE_S
        mine = _folders(self.assigned_work.get(node, ()))
        begun = mine.union(*(_folders(files) for files in self.assigned_work.values()))
        first = min(
            self.workqueue,
            key=lambda file: (
                near and file.startswith(_WAITING),
                _folder(file) not in mine,
                _folder(file) in begun,
            ),
        )
        self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _folders(files: Iterable[str]) -> set[str]:
    return {_folder(file) for file in files}
