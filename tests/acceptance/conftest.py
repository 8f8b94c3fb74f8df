"""The whole product, and a browser to look at it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from support import browser as pages
from support import forked

from ai_hub.dev.control import down
from ai_hub.dev.demo import steps
from ai_hub.dev.demo.steps import Steps
from ai_hub.dev.services import select

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser

_AI_HUB = Path(sys.executable).with_name("ai-hub")
_DEMO_S = 900


@dataclass(frozen=True)
class Demo:
    """What `ai-hub demo` left behind in the run's embedded stack."""

    tenants: tuple[str, ...] = ("illinois", "uk-home")


@dataclass
class _Programs:
    """Runs the first command of each program as one, and the others in forks of one."""

    program: Callable[..., CompletedProcess[str]]
    folder: Path
    started: set[str] = field(default_factory=set)

    def execute(self, command: Sequence[str], *, shown: bool = False) -> CompletedProcess[str]:
        if command[0] not in self.started:
            self.started.add(command[0])
            return self.program(command, shown=shown)
        return forked.run(command, steps._environment(), self.folder, _DEMO_S)


@pytest.fixture
def forked_steps(stack: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Steps of the demo whose commands are forks, as starting Python for each of them is half of it."""
    del stack  # its servers are the ones the commands find
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "_execute", _Programs(steps._execute, tmp_path).execute)
    yield Steps(Console(markup=False, emoji=False))
    _stop_service()


@pytest.fixture(scope="session")
def demo(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once, which takes minutes; mark tests that use it `long` and `timeout(900)`."""
    del stack  # its servers are the ones the commands find
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        subprocess.run([_AI_HUB, "demo"], check=True, timeout=_DEMO_S)
    _stop_service()
    return Demo()


def _stop_service() -> None:
    """Its export worker would take the jobs of other tests."""
    down(select(["api"]), purge=False, on_wait=lambda: None)


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
