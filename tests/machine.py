"""Programs of the machine that no package registry gives: PostgreSQL and Chromium."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from benchmarks.stores import PostgresMissingError, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

_ON = {"1", "true", "yes"}


def missing(program: str, package: str) -> NoReturn:
    """Skip the test; in CI, where nobody would notice, fail it."""
    text = f"{program} is not installed: apt-get install {package}"
    if os.environ.get("CI", "").lower() in _ON:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def chromium() -> str:
    """Path of Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or missing("Chromium", "chromium")


@contextmanager
def native_postgres() -> Iterator[str]:
    """A PostgreSQL server with nothing in it; yields its superuser's URL, which asks for the password."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres())
        except PostgresMissingError:
            missing("PostgreSQL", "postgresql")
        yield server.dsn
