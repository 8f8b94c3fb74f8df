"""What `/metrics` says of export jobs while TimescaleDB answers, keeps silent and answers again."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.service_server import running_service

from ai_hub.db.transactions import transaction
from ai_hub.jobs import queue
from ai_hub.jobs.queue import STATUSES
from ai_hub.settings import ServiceSettings, Settings
from benchmarks.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

AT_ONCE_S = 1.0
EVERY_S = 0.1


@pytest.fixture
def line(energy: Energy, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, Proxy]]:
    """Settings with a line to the database that can be cut, where numbers are read all the time."""
    monkeypatch.setattr(queue, "_EVERY_S", EVERY_S)
    dsn = energy.environment["TIMESCALE_DSN"]
    port = int(dsn.rpartition(":")[2].partition("/")[0])
    with proxied(port) as proxy:
        yield Settings(timescale_dsn=dsn.replace(f":{port}/", f":{proxy.port}/")), proxy


def scrape(address: str) -> tuple[dict[str, float], float | None]:
    """Jobs by status, and their age."""
    begun = time.monotonic()
    text = httpx.get(f"{address}/metrics", timeout=60).raise_for_status().text
    assert time.monotonic() - begun < AT_ONCE_S
    found = {family.name: family.samples for family in text_string_to_metric_families(text)}
    jobs = {
        each.labels["status"]: each.value for each in found["ai_hub_jobs"] if each.labels["kind"] == "export"
    }
    return jobs, next((each.value for each in found["ai_hub_jobs_age_seconds"]), None)


def fresh(address: str, expected: dict[str, int] | None = None) -> dict[str, float]:
    """Jobs by status, when they have just been counted, and are as expected."""
    deadline = time.monotonic() + 30
    while True:
        jobs, age = scrape(address)
        if age is not None and age < AT_ONCE_S and expected in (None, jobs):
            return jobs
        assert time.monotonic() < deadline, "the jobs are not counted"
        time.sleep(EVERY_S)


def cancelled_export(address: str, energy: Energy) -> None:
    wanted = {
        "tenant_id": energy.main,
        "feature_set": "forecast_basic",
        "start_time": (energy.now - timedelta(days=3)).isoformat(),
        "end_time": energy.now.isoformat(),
    }
    exports = f"{address}/ai/features/export"
    made = httpx.post(exports, params={"wait_s": 0}, json=wanted, timeout=30).raise_for_status().json()
    tenant = {"tenant_id": energy.main}
    httpx.post(f"{exports}s/{made['export_id']}/cancel", params=tenant, timeout=30).raise_for_status()


def test_database_silent__scrapes_have_the_last_numbers_at_once__and_new_ones_afterwards(
    line: tuple[Settings, Proxy], energy: Energy
) -> None:
    settings, proxy = line
    with running_service(settings, ServiceSettings(auth="off")) as address:
        cancelled_export(address, energy)
        with transaction(settings) as connection:
            counted = connection.execute("SELECT status, count(*) FROM feature_exports GROUP BY status")
            there_are = dict.fromkeys(STATUSES, 0) | dict(counted.fetchall())
        assert there_are["failed"] >= 1
        before = fresh(address, there_are)
        proxy.stall()
        try:
            time.sleep(2 * AT_ONCE_S)
            jobs, age = scrape(address)
            assert jobs == before
            assert age is not None
            assert age > AT_ONCE_S
        finally:
            proxy.heal()
        assert fresh(address) == before


def test_database_silent_from_the_start__scrapes_have_no_numbers_of_jobs(
    line: tuple[Settings, Proxy],
) -> None:
    settings, proxy = line
    proxy.stall()
    try:
        with running_service(settings, ServiceSettings(auth="off")) as address:
            assert scrape(address) == ({}, None)
            proxy.heal()
            assert set(fresh(address)) == set(STATUSES)
    finally:
        proxy.heal()
