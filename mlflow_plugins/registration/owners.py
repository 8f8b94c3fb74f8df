"""Who works on a claimed version right now, and whether whoever did still does."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psutil
from mlflow.utils.time import get_current_time_millis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

#: A claim of another process that was not renewed for this long is abandoned.
LEASE_MS: Final = 600_000
#: What stands in a row whose owner gave it up.
NOBODY: Final = ""

_RENEWALS_IN_A_LEASE: Final = 4
_busy: Final[set[str]] = set()


@contextmanager
def owner() -> Iterator[str]:
    """A name nobody else has, for work that ends with the block."""
    name = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}:{secrets.token_hex(4)}"
    _busy.add(name)
    try:
        yield name
    finally:
        _busy.discard(name)


@contextmanager
def renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Call `renew` from time to time while the block runs, so that the lease of what it does never ends."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(LEASE_MS / _RENEWALS_IN_A_LEASE / 1000):
            renew()

    thread = threading.Thread(target=run, name="renew-claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def is_abandoned(row: sa.Row[Any]) -> bool:
    """Whether nobody works on a row of `lifecycle_versions` any more."""
    if row.claimed_by == NOBODY:
        return True
    host, pid, started, *_ = row.claimed_by.split(":")
    if host == socket.gethostname():
        if int(pid) == os.getpid() and started == str(psutil.Process().create_time()):
            return row.claimed_by not in _busy
        if not _runs(int(pid), started):
            return True
    return bool(row.claimed_at + LEASE_MS < get_current_time_millis())


def _runs(pid: int, started: str) -> bool:
    try:
        return str(psutil.Process(pid).create_time()) == started
    except psutil.NoSuchProcess:
        return False
