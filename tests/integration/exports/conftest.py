"""See `ExportLab`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.export_lab import ExportLab

from ai_hub.db import connect
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy


@pytest.fixture
def lab(energy: Energy, tmp_path: Path) -> Iterator[ExportLab]:
    folder = tmp_path / "exports"
    folder.mkdir()
    # workers take whatever waits, also what tests of other files have left
    with connect(energy.environment["TIMESCALE_DSN"]) as connection:
        connection.execute(
            "UPDATE jobs SET status = 'failed', error = 'left by another test',"
            " completed_at = now() WHERE status IN ('pending', 'running')"
        )
    found = ExportLab(energy, Settings(export_storage_path=str(folder)), folder)
    yield found
    found.forget()
