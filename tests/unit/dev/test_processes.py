"""Processes are stopped with everything they started, and never somebody else's."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ai_hub.dev import processes
from ai_hub.dev.processes import Handle
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from pathlib import Path

#: Starts a child, writes its pid to a file, then waits; `ignore` makes both deaf to a polite request.
PARENT = """
import signal, subprocess, sys, time
if sys.argv[1] == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])
open("child", "w").write(str(child.pid))
time.sleep(60)
"""
#: Ends its main thread when asked to stop, and half a second later another one, as Node does.
LATE_THREAD = """
import ctypes, pathlib, signal, threading, time
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
threading.Thread(target=lambda: asked.wait() and time.sleep(0.5)).start()
pathlib.Path("ready").touch()
asked.wait()
ctypes.CDLL(None).pthread_exit(None)
"""


def start(folder: Path, mode: str = "polite") -> Handle:
    command = [sys.executable, "-c", PARENT, mode]
    handle = processes.spawn(command, folder=folder, log=folder / "log", environment=os.environ)
    while not (folder / "child").exists() or not (folder / "child").read_text():
        time.sleep(0.02)
    return handle


def child(folder: Path) -> int:
    return int((folder / "child").read_text())


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stop__ends_children_as_well(tmp_path: Path) -> None:
    handle = start(tmp_path)
    assert processes.is_alive(handle)
    processes.stop(handle, 5)
    assert not processes.is_alive(handle)
    assert is_gone(child(tmp_path))


def test_stop__deaf_process__ended_by_force(tmp_path: Path) -> None:
    handle = start(tmp_path, "ignore")
    processes.stop(handle, 0.3)
    assert not processes.is_alive(handle)
    assert is_gone(child(tmp_path))


def test_stop__leader_already_dead__ends_what_it_left(tmp_path: Path) -> None:
    handle = start(tmp_path)
    os.kill(handle.pid, signal.SIGKILL)
    while processes.is_alive(handle):
        time.sleep(0.02)
    assert not is_gone(child(tmp_path))
    processes.stop(handle, 5)
    assert is_gone(child(tmp_path))


def test_process_whose_status_somebody_else_asked_for__is_no_child_any_more(tmp_path: Path) -> None:
    handle = start(tmp_path)
    os.kill(handle.pid, signal.SIGKILL)
    psutil.Process(handle.pid).wait(10)
    processes.stop(handle, 5)
    # at the end of Python a warning would say that it is still running
    assert handle.pid not in processes._children


def test_stop__other_start_time__leaves_the_process_alone(tmp_path: Path) -> None:
    handle = start(tmp_path)
    processes.stop(Handle(handle.pid, handle.create_time - 60), 1)
    assert processes.is_alive(handle)
    processes.stop(handle, 5)


def test_is_alive__clock_was_set__knows_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = start(tmp_path)
    boot_time = psutil.boot_time()
    # how Linux tells that the clock was set: boot is at another time of day, and so are all starts since
    for module in (psutil, psutil._pslinux):
        monkeypatch.setattr(module, "boot_time", lambda: boot_time + 143)
    assert psutil.Process(handle.pid).create_time() - 143 == pytest.approx(boot_time + handle.create_time)
    assert processes.is_alive(handle)
    processes.stop(handle, 5)
    assert not processes.is_alive(handle)


def test_stop__main_thread_ends_before_the_others__waits_for_all_of_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LATE_THREAD]
    handle = processes.spawn(command, folder=tmp_path, log=tmp_path / "log", environment=os.environ)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    processes.stop(handle, 10)
    assert not psutil.pid_exists(handle.pid)
    # the lock that it inherited is free
    processes.stop(start(tmp_path), 5)


def test_spawn__folder_in_use__refused(tmp_path: Path) -> None:
    handle = start(tmp_path)
    with pytest.raises(ConflictError, match="not recorded uses"):
        start(tmp_path)
    processes.stop(handle, 5)
    processes.stop(start(tmp_path), 5)


def test_rotate__large_log__put_aside(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert processes.rotate(log) == 0
    log.write_bytes(b"x" * 10)
    assert processes.rotate(log) == 10
    log.write_bytes(b"x" * 5_000_001)
    assert processes.rotate(log) == 0
    assert not log.exists()
