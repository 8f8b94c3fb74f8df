"""Programs of this installation in processes that need not import it first, which takes seconds."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from importlib.metadata import entry_points
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

from support.registry_servers import FORKS, PRELOADED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_S = 200
#: A status can be read once, and starting a process reads those of the others.
_STATUS = threading.Lock()


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float = _TIMEOUT_S
) -> CompletedProcess[str]:
    """Run a program with these variables and no others in `folder`, and return what it printed.

    Several threads may do so at once.
    """
    FORKS.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("stdout", "stderr")]
        process = FORKS.Process(
            target=_run, args=(list(command), dict(environment), str(folder), [str(file) for file in files])
        )
        with _STATUS:
            process.start()
        ended = wait([process.sentinel], timeout_s)
        with _STATUS:
            if not ended:
                process.kill()
            process.join()
            status = process.exitcode
        assert ended, f"{command} does not end"
        assert status is not None
        return CompletedProcess(command, status, *(file.read_text() for file in files))


def _run(command: list[str], environment: dict[str, str], folder: str, files: list[str]) -> None:
    sys.stdout.flush()
    for number, file in enumerate(files, 1):
        with open(file, "wb", buffering=0) as stream:  # noqa: PTH123  # a descriptor is what is wanted
            os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = command
    # Feast's own `feast` is there as well
    points = entry_points(group="console_scripts", name=command[0])
    max(points, key=lambda point: point.value.startswith("ai_hub.")).load()()
