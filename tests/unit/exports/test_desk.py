"""Waiting at the desk: who may, and for how long."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from uuid import UUID, uuid4

from ai_hub.exports.desk import ExportDesk
from ai_hub.exports.jobs import Job
from ai_hub.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_of(tenant: str) -> Job:
    values: dict[str, object] = dict.fromkeys(each.name for each in dataclasses.fields(Job))
    given = {"export_id": uuid4(), "tenant_id": tenant, "status": "pending", "start_time": NOW}
    return Job(**values | given)  # type: ignore[arg-type]


class Desk(ExportDesk):
    """Without a database: jobs are what the test says."""

    def __init__(self, max_in_flight: int) -> None:
        super().__init__(Settings(), max_in_flight)
        self.reads = 0

    async def find(self, tenant: str, export_id: UUID) -> Job:
        self.reads += 1
        return dataclasses.replace(job_of(tenant), export_id=export_id)


async def stays() -> None:
    await asyncio.sleep(60)


async def seconds_of(desk: ExportDesk, tenant: str, wait_s: float = 0.2) -> float:
    started = asyncio.get_running_loop().time()
    await desk.wait(job_of(tenant), wait_s, stays)
    return asyncio.get_running_loop().time() - started


def test_client_that_leaves__waits_no_longer() -> None:
    asyncio.run(_client_that_leaves())


async def _client_that_leaves() -> None:
    desk = Desk(8)
    job = job_of("one")

    async def leaves() -> None:
        await asyncio.sleep(0.01)

    async with asyncio.timeout(5):
        assert await desk.wait(job, 60, leaves) == job
    assert desk.reads == 0


def test_waiting__leaves_room_for_other_requests_and_tenants() -> None:
    asyncio.run(_many_wait())


async def _many_wait() -> None:
    desk = Desk(16)
    waiting = [asyncio.create_task(seconds_of(desk, "one", 60)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await seconds_of(desk, "one") < 0.1
    assert await seconds_of(desk, "two") > 0.1
    waiting += [asyncio.create_task(seconds_of(desk, str(number // 2), 60)) for number in range(6)]
    await asyncio.sleep(0)
    assert await seconds_of(desk, "two") < 0.1
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await seconds_of(desk, "one") > 0.1
