"""Reads features as the service does, at a time of the test's choice, and compares them with the oracle."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from oracles.features import HOUR, Asset, floor_hour, same

from ai_hub.features.online.reader import FeatureReader, FeatureRequest, open_reader
from ai_hub.settings import ServiceSettings, Settings
from support.feature_tables import VIEWS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

#: The embedded TimescaleDB is slow and does one thing at a time.
PATIENT = ServiceSettings(auth="off", database_timeout_s=60, database_connections=2, redis_timeout_s=2)
CALENDAR = ("hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend")


class Clock:
    """Says what it was told."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def __call__(self) -> datetime:
        return self.time


@asynccontextmanager
async def reading(
    clock: Clock, options: ServiceSettings = PATIENT, **settings: Any
) -> AsyncIterator[FeatureReader]:
    """A reader with these settings instead of the run's."""
    async with open_reader(options, Settings(**settings), clock) as reader:
        yield reader


def run(work: Callable[[FeatureReader], Awaitable[None]], clock: Clock, **options: Any) -> None:
    """Run `work` with a reader."""

    async def main() -> None:
        async with reading(clock, **options) as reader:
            await work(reader)

    asyncio.run(main())


async def ask(reader: FeatureReader, tenant: str, *assets: str, **asked: Any) -> list[dict[str, Any]]:
    """The results; what is written back is in Redis by then."""
    answer = await reader.read(FeatureRequest(tenant, list(assets), **asked))
    await reader.cache.settle()
    return [
        result | orjson.loads(orjson.dumps({name: result[name] for name in ("features", "status")}))
        for result in answer.results
    ]


def differences(
    result: Mapping[str, Any], expected: Asset, feature_set: str, at: datetime, now: datetime
) -> list[str]:
    """How a result differs from the oracle: the newest row at `at`, if it is at most three hours old."""
    hours = [hour for hour in expected.hours(floor_hour(now)) if hour <= at]
    found = []
    fresh = bool(hours) and at - hours[-1] <= 3 * HOUR
    want = expected.row(hours[-1]) if fresh else {}
    scale = max(map(abs, expected.readings.values()), default=1.0)
    for name in VIEWS[feature_set]:
        value, status = result["features"][name], result["status"][name]
        if not fresh:
            if value is not None or status not in {"NOT_FOUND", "OUTSIDE_MAX_AGE"}:
                found.append(f"{name}: {value} {status} without a row")
        elif not same(value, want[name], scale):
            found.append(f"{name}: {value} instead of {want[name]}")
        elif status != ("NULL_VALUE" if want[name] is None else "PRESENT"):
            found.append(f"{name}: {value} with status {status}")
    if fresh and result["hour"] != hours[-1]:
        found.append(f"hour {result['hour']} instead of {hours[-1]}")
    return found


def sources(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where each result came from."""
    return [str(each["source"]) for each in results]


def place(url: str) -> tuple[str, int]:
    """Host and port of a server's address."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def through(url: str, port: int) -> str:
    """The address with another port of this machine."""
    host, old = place(url)
    assert f"{host}:{old}" in url
    return url.replace(f"{host}:{old}", f"127.0.0.1:{port}")
