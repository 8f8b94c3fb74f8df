"""Processes of the service killed while an export waits; `make faults` does the same and more under load."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from support.service_process import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.energy import Energy


@pytest.mark.long
def test_faults__worker_then_service_killed__the_job_completes_and_no_process_stays(
    energy: Energy, tmp_path: Path
) -> None:
    settings = energy.environment | {"AI_HUB_API_AUTH": "off", "EXPORT_STORAGE_PATH": str(tmp_path)}
    with serving(settings, log=tmp_path / "log") as (address, process):
        first = eventually(lambda: worker_of(process.pid))
        first.kill()
        wanted = {
            "tenant_id": energy.main,
            "feature_set": "forecast_advanced",
            "start_time": (energy.now - timedelta(days=14)).isoformat(),
            "end_time": energy.now.isoformat(),
        }
        answer = httpx.post(f"{address}/ai/features/export?wait_s=60", json=wanted, timeout=70)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        assert job["status"] == "completed", job
        content = Path(job["storage_path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == job["sha256"]
        second = eventually(lambda: worker_of(process.pid))
        assert second.pid != first.pid
        process.kill()
        process.wait()
        second.wait(20)


def worker_of(pid: int) -> psutil.Process | None:
    """The export worker of a service."""
    for child in psutil.Process(pid).children():
        if "worker" in child.cmdline():
            return child
    return None


def eventually(find: Callable[[], psutil.Process | None]) -> psutil.Process:
    """What is found within half a minute."""
    for _ in range(300):
        if found := find():
            return found
        time.sleep(0.1)
    pytest.fail("there is no export worker")
