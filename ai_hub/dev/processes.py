"""Start servers in sessions of their own, recognise them later, stop them with everything they started."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


#: Clock ticks are of 0.01 s.
_TOLERANCE_S = 0.05
_POLL_S = 0.05
_LOG_LIMIT_BYTES = 5_000_000
#: Servers this very process started; asked for their status so that they do not stay zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Handle:
    """One process, safe against reuse of its pid."""

    pid: int
    #: seconds from boot to its start, which clock adjustments do not move
    create_time: float


def rotate(log: Path) -> int:
    """Put a large log aside; returns the size of what stays, where the next start's lines begin."""
    size = log.stat().st_size if log.exists() else 0
    if size <= _LOG_LIMIT_BYTES:
        return size
    log.replace(log.with_suffix(".old.log"))
    return 0


def spawn(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> Handle:
    """Start `command` in `folder`, detached from the terminal, its output appended to `log`.

    The process inherits a lock on the folder, so that no second server ever opens the same data.

    Raises:
        ConflictError: another process uses the folder.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"A server that is not recorded uses {folder}.",
                hint=f"Find it with `fuser {folder / 'lock'}` and stop it.",
            ) from None
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(command),
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)
    _children[child.pid] = child
    return Handle(child.pid, started(psutil.Process(child.pid)))


def started(process: psutil.Process) -> float:
    """Seconds from boot to the start of a process.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    return process.create_time() - psutil.boot_time()


def is_alive(handle: Handle) -> bool:
    """Whether that very process still runs."""
    return _find(handle) is not None


def stop(handle: Handle, grace_s: float) -> None:
    """End the process and all of its session: politely, then after `grace_s` seconds by force."""
    members = _session(handle)
    for process in members:
        _signal(process, force=False)
    _wait_gone(members, grace_s)
    leftover = [process for process in _session(handle) if _runs(process)]
    for process in leftover:
        _signal(process, force=True)
    _wait_gone(leftover, grace_s)


def wait_until_dead(handles: Sequence[Handle], interval_s: float = 0.5) -> Handle:
    """Block until one of the processes has ended, and return it."""
    while True:
        for handle in handles:
            if not is_alive(handle):
                return handle
        time.sleep(interval_s)


def _find(handle: Handle) -> psutil.Process | None:
    try:
        process = psutil.Process(handle.pid)
        same = abs(started(process) - handle.create_time) < _TOLERANCE_S
    except psutil.NoSuchProcess:
        if child := _children.pop(handle.pid, None):
            child.poll()
        return None
    return process if same and _runs(process) else None


def _runs(process: psutil.Process) -> bool:
    if child := _children.get(process.pid):
        # A main thread that ended looks like a zombie while other threads still hold the ports and the lock.
        if child.poll() is None:
            return True
        _children.pop(process.pid, None)
    try:
        # One that ended, but whose parent has not asked for its status yet, is gone for us.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_gone(waiting: Sequence[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(_runs(process) for process in waiting):
        time.sleep(_POLL_S)


def _session(handle: Handle) -> list[psutil.Process]:
    """The process first, then what it started, also when it is gone itself but left children behind."""
    leader = _find(handle)
    if leader is None and psutil.pid_exists(handle.pid):
        return []  # the pid belongs to somebody else now
    members = [] if leader is None else [leader]
    for process in psutil.process_iter():
        try:
            if process.pid != handle.pid and os.getsid(process.pid) == handle.pid:
                members.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def _signal(process: psutil.Process, *, force: bool) -> None:
    try:
        process.kill() if force else process.terminate()
    except psutil.NoSuchProcess:
        return
