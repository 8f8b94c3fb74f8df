"""Waiting for exports: who may, and for how long."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg

from ai_hub.exports import service
from ai_hub.exports.export import Export
from ai_hub.exports.service import ExportService
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_of(tenant: str) -> Export:
    values: dict[str, object] = dict.fromkeys(each.name for each in dataclasses.fields(Export))
    given = {"export_id": uuid4(), "tenant_id": tenant, "status": "pending", "start_time": NOW}
    return Export(**values | given)  # type: ignore[arg-type]


class Service(ExportService):
    """Without a database: jobs are what the test says."""

    def __init__(self, max_in_flight: int) -> None:
        super().__init__(Settings(), max_in_flight)
        self.reads = 0

    async def find(self, tenant: str, export_id: UUID) -> Export:
        self.reads += 1
        return dataclasses.replace(job_of(tenant), export_id=export_id)


async def stays() -> None:
    await asyncio.sleep(60)


#: A wait that is not waited is much shorter, however busy the machine is.
LONG_S = 20.0


async def seconds_of(at: ExportService, tenant: str, wait_s: float = 0.2) -> float:
    started = asyncio.get_running_loop().time()
    await at.wait(job_of(tenant), wait_s, stays)
    return asyncio.get_running_loop().time() - started


def test_client_that_leaves__waits_no_longer() -> None:
    asyncio.run(_client_that_leaves())


async def _client_that_leaves() -> None:
    mine = Service(8)
    job = job_of("one")

    async def leaves() -> None:
        await asyncio.sleep(0.01)

    async with asyncio.timeout(5):
        assert await mine.wait(job, 60, leaves) == job
    assert mine.reads == 0


def test_waiting__leaves_room_for_other_requests_and_tenants() -> None:
    asyncio.run(_many_wait())


async def _many_wait() -> None:
    mine = Service(16)
    waiting = [asyncio.create_task(seconds_of(mine, "one", 60)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await seconds_of(mine, "one", LONG_S) < LONG_S / 2
    assert await seconds_of(mine, "two") > 0.1
    waiting += [asyncio.create_task(seconds_of(mine, str(number // 2), 60)) for number in range(6)]
    await asyncio.sleep(0)
    assert await seconds_of(mine, "two", LONG_S) < LONG_S / 2
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await seconds_of(mine, "one") > 0.1


def test_database_error__stops_no_poll_and_is_one_tenants_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    @contextmanager
    def transaction(_settings: Settings, tenant: str) -> Iterator[str]:
        if tenant == "one" and not refused:
            refused.append(tenant)
            raise psycopg.errors.InsufficientPrivilege
        yield tenant

    def find_exports(tenant: str, export_ids: list[UUID]) -> list[Export]:
        return [
            dataclasses.replace(job_of(tenant), export_id=each, status="completed") for each in export_ids
        ]

    monkeypatch.setattr(service, "transaction", transaction)
    monkeypatch.setattr(service, "find_exports", find_exports)
    asyncio.run(_polled(refused))


async def _polled(refused: list[str]) -> None:
    mine = Service(16)
    polling = asyncio.create_task(mine.poll())
    async with asyncio.timeout(30):
        one = asyncio.create_task(mine.wait(job_of("one"), 60, stays))
        await asyncio.sleep(0)
        assert (await mine.wait(job_of("two"), 60, stays)).status == "completed"
        assert (refused, one.done()) == (["one"], False)
        assert (await one).status == "completed"
    polling.cancel()
