"""Stores on the run's Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.online_repo import Pair

from ai_hub.settings import feast_redis_connection

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def connection(redis_url: str) -> str:
    """The run's Redis, as Feast is told of it."""
    return feast_redis_connection(redis_url)


@pytest.fixture
def pair(tmp_path: Path, connection: str) -> Pair:
    """Both stores on a registry with nothing in it but entities once `apply` was called."""
    return Pair.open(tmp_path, connection)
