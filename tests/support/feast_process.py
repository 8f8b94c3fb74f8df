"""`feast` in the process of the tests."""

from __future__ import annotations

import linecache
import logging
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def restored() -> Iterator[None]:
    """Undo what a command changes: folder, path, modules, log levels and how modules are compiled."""
    folder, path, bytecode = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    modules = set(sys.modules)
    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    linecache.clearcache()  # Feast stores the text of functions
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as a program, where they are lines on stderr
            yield
    finally:
        os.chdir(folder)
        added = set(sys.path) - set(path)
        sys.path[:] = path
        sys.dont_write_bytecode = bytecode
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and added.intersection(map(str, Path(file).parents)):
                del sys.modules[name]
