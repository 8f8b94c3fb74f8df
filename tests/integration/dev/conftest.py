"""Stacks of a test's own, with the few servers it needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import forked

from ai_hub.dev.control import down, up
from ai_hub.dev.record import load
from ai_hub.dev.services import select

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess

    from ai_hub.dev.processes import Handle


@dataclass
class OwnStack:
    """A state folder of its own and its commands."""

    state: Path

    def up(self, *names: str) -> dict[str, Handle]:
        return up(select(names), lambda *_, **__: None)

    def pid(self, name: str) -> int:
        pid = load().services[name].pid
        assert pid is not None
        return pid

    def setting(self, name: str) -> str:
        return load().env[name]

    def cli(self, *arguments: str) -> CompletedProcess[str]:
        return forked.run(["ai-hub", *arguments], os.environ, Path.cwd())


@pytest.fixture
def own_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnStack]:
    """An empty state folder in which the test may start and break servers; no setting names another."""
    for name in list(os.environ):
        if name.startswith(
            ("TIMESCALE_", "REDIS_", "MINIO_", "MLFLOW_", "MODEL_", "FEAST_", "PG", "AI_HUB_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield OwnStack(tmp_path / "state")
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "state"))
    down(select([]), purge=True, on_wait=lambda: None)
