"""One embedded stack for the whole run, started when the first test asks for it."""

from __future__ import annotations

import secrets
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ai_hub.settings import Settings
from ai_hub.stack.down import down
from ai_hub.stack.services import SERVICES, select
from ai_hub.stack.up import up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from ai_hub.stack.service import Service

#: What could lead a test to a server of somebody else.
_FOREIGN = (
    *(name.upper() for name in Settings.model_fields),
    *("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE", "PGSERVICE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL", "FEAST_REDIS_CONNECTION"),
    *("MLFLOW_WORKSPACE", "MLFLOW_REGISTRY_URI"),
    *(f"AI_HUB_{service.port_field.upper()}" for service in SERVICES.values()),
)


@contextmanager
def isolated(state: Path) -> Iterator[pytest.MonkeyPatch]:
    """No setting but that embedded servers keep their data in `state`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("AI_HUB_STATE_DIR", str(state))
        state.parent.mkdir(parents=True, exist_ok=True)
        # `.env` of the current folder is a source of settings, too.
        patch.chdir(state.parent)
        yield patch


@contextmanager
def embedded(state: Path, services: list[Service]) -> Iterator[dict[str, str]]:
    """Servers of their own in `state` and the settings that lead to them; stopped and deleted at the end."""
    try:
        with isolated(state):
            up(services, lambda *_, **__: None)
            environment = Settings().environment()
        yield environment
    finally:
        with isolated(state):
            down(services, purge=True, on_wait=lambda: None)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of the run's embedded stack; `Settings()` and child processes find it, too."""
    state = tmp_path_factory.mktemp("stack") / "state"
    # A terminated run must not leave servers behind.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    with embedded(state, select([])) as environment, pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("AI_HUB_STATE_DIR", str(state))
        yield environment
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture
def settings(stack: dict[str, str]) -> Settings:
    """Settings of the run's embedded stack."""
    del stack
    return Settings()


@pytest.fixture
def dsn(stack: dict[str, str]) -> str:
    """Database of the run's embedded stack, shared by all tests: use `tenant` to stay apart."""
    return stack["TIMESCALE_DSN"]


@pytest.fixture
def tenant() -> str:
    """A tenant no other test uses."""
    return f"tenant-{secrets.token_hex(5)}"


@pytest.fixture
def blank_database(tmp_path: Path) -> Iterator[str]:
    """Address of a TimescaleDB of its own with nothing in it but the extension."""
    with embedded(tmp_path / "blank" / "state", select(["timescaledb"])) as environment:
        yield environment["TIMESCALE_DSN"]


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt
