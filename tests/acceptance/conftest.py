"""The whole product, and a browser to look at it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import browser as pages
from support import properties

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

_DEMO_S = 900


@dataclass(frozen=True)
class Demo:
    """What `ai-hub demo` left behind in the run's embedded stack."""

    output: str
    seconds: float
    tenants: tuple[str, ...] = ("illinois", "uk-home")


@pytest.fixture(scope="session")
def demo(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once; mark tests that use it `timeout(900)`.

    All of its meters' weeks take twice as long: they belong to `make test-long`.
    """
    del stack  # its servers are the ones the command finds
    program = Path(sys.executable).with_name("ai-hub")
    begun = time.monotonic()
    done = subprocess.run(
        [program, "demo", *([] if properties.is_long() else ["--weeks=16"])],
        cwd=tmp_path_factory.mktemp("demo"),
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEMO_S,
    )
    # its export worker would take the jobs of other tests
    subprocess.run([program, "down", "--only", "api"], check=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Demo(done.stdout, time.monotonic() - begun)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module's tests, each of which opens a window of its own.

    Until it is closed, Playwright's event loop lets no other one run in the process.
    """
    with pages.opened() as browser:
        yield browser


@pytest.fixture
def aliases_page(chromium: Browser, stack: dict[str, str]) -> Iterator[pages.Registry]:
    """The registry's pages as MLflow shows them by default."""
    with pages.visit(chromium, stack["MLFLOW_TRACKING_URI"]) as registry:
        yield registry


@pytest.fixture
def stages_page(chromium: Browser, stack: dict[str, str]) -> Iterator[pages.Registry]:
    """The registry's pages with the switch `New model registry UI` off."""
    with pages.visit(chromium, stack["MLFLOW_TRACKING_URI"], stages=True) as registry:
        yield registry
