"""What the workers of a run share."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def once(base: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Path of what `make` makes at the path that it is given; the first worker that asks makes it for all.

    Args:
        base: the worker's folder of temporary files, beside those of the others.
        name: of the file or folder.
        make: leaves nothing half done at its path, for it is called anew after a failure.
    """
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path
