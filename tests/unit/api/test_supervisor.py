from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from ai_hub.api import server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_WORKER = """
import os, pathlib, sys
place = pathlib.Path(sys.argv[1])
with place.open("a") as file:
    file.write(f"{os.getpid()}\\n")
sys.stdin.read()
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_supervised__killed__started_again__and_gone_when_it_is_stopped(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    keeper = server._Supervisor([sys.executable, "-c", _WORKER, str(pids)])

    def started() -> list[int]:
        return [int(line) for line in pids.read_text().splitlines()] if pids.exists() else []

    thread = threading.Thread(target=keeper.run)
    thread.start()
    wait_for(lambda: len(started()) == 1)
    os.kill(started()[0], signal.SIGKILL)
    wait_for(lambda: len(started()) == 2)
    keeper.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert not any(lives(pid) for pid in started())


_PARENT = """
import sys, time, threading
from ai_hub.api import server
keeper = server._Supervisor([sys.executable, "-c", sys.argv[1], sys.argv[2]])
threading.Thread(target=keeper.run, daemon=True).start()
time.sleep(60)
"""


def test_supervised__its_parent_is_killed__sees_its_input_end(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, _WORKER, str(pids)])
    wait_for(lambda: pids.exists() and pids.read_text().endswith("\n"))
    child = int(pids.read_text())
    parent.kill()
    parent.wait()
    wait_for(lambda: not lives(child))
