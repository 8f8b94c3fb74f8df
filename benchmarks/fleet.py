"""A fleet of 100,000 meters at the turn of an hour: native TimescaleDB, Valkey, service.

    python -m benchmarks.fleet [--small] [--tenants N] [--label before] [--output FOLDER]

Two shapes: 10 tenants with 10,000 meters each, and 1,000 with 100. The service and the follower run on a
clock that is put back to just before the hour (`shifted_clock.c`), and `FEATURE_CACHE_TTL` is ten seconds, so
that what five minutes after the hour bring is there ten seconds after it. At the hour a reading of each meter
arrives; the features are refreshed, and the follower brings them into Redis. Reads go on all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ai_hub.access.api_keys import KeyText, digest, new_key
from ai_hub.db import connect
from benchmarks import measure, servers, service_load, service_site
from benchmarks.history import HOUR, this_hour
from benchmarks.servers import Valkey, valkey
from benchmarks.service_load import Load, Stream
from benchmarks.service_site import Service, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


BENCHMARK = "fleet"
SEED = 20_261_129
_PATH = "/ai/features/get"
_SET = "forecast_basic"
_TTL_S = 10
_PATTERNS = ('"source":"redis"', '"source":"timescaledb"', '"degraded":true')
_CLOCK = Path(__file__).with_name("shifted_clock.c")
#: Rows of one INSERT of new readings.
_CHUNK = 10_000
_TURN_LIMIT_S = 600

#: The hours that features of this hour and of the last look at, up to the last but one.
_HISTORY = """
INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value)
SELECT tenant_id, asset_id, hour, round((2 + sin(extract(hour FROM hour)::float8) + random())::numeric, 3)
FROM assets
CROSS JOIN (
    SELECT %(hour)s - number * INTERVAL '1 hour' AS hour
    FROM generate_series(2, 170) AS number WHERE number <= 26 OR number >= 167
) AS hours
WHERE tenant_id = ANY(%(tenants)s)
"""
_ASSETS = """
INSERT INTO assets (tenant_id, asset_id, kind, unit, timezone, interval_seconds)
SELECT 'fleet-' || tenant, 'meter-' || lpad(asset::text, 5, '0'), 'electricity', 'kWh', 'Europe/Berlin', 3600
FROM generate_series(0, %s - 1) AS tenant, generate_series(0, %s - 1) AS asset
"""
#: Rows of the last day, as if they had been computed hour by hour; of the last hour those that Redis gets.
_STORE_ROWS = (
    """
    INSERT INTO ai_features_stored (hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h,
        historical_min_24h, historical_max_24h, lag_1h, lag_24h, lag_168h, created_timestamp)
    SELECT hour, tenant_id, asset_id, 2, 1, 1, 4, 2, 2, 2, hour
    FROM asset_spans, generate_series(
        %(hour)s - INTERVAL '24 hours', %(hour)s - INTERVAL '1 hour', INTERVAL '1 hour'
    ) AS hour
    """,
    """
    INSERT INTO declared_spans (view_name, tenant_id, asset_id, stored)
    SELECT 'ai_features', tenant_id, asset_id, periods * tstzmultirange(tstzrange(NULL, %(hour)s))
        - tstzmultirange(tstzrange(first_hour, first_hour + INTERVAL '1 hour'))
    FROM asset_spans
    """,
    "DELETE FROM feature_changes",
)
_READINGS = """
INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value)
SELECT tenant_id, asset_id, %s, 3
FROM (SELECT * FROM assets ORDER BY tenant_id, asset_id OFFSET %s LIMIT %s) AS meters
"""
_KEYS = (
    "INSERT INTO api_keys (key_id, sha256, name, tenants, scopes, created_by)"
    " SELECT key_id, sha256, key_id, ARRAY[tenant], ARRAY['features:read', 'exports:read'], 'bench'"
    " FROM unnest(%s::text[], %s::bytea[], %s::text[]) AS keys (key_id, sha256, tenant)"
)
_MORE_KEYS = (
    "INSERT INTO api_keys (key_id, sha256, name, tenants, scopes, created_by)"
    " SELECT 'k' || lpad(number::text, 11, '0'), sha256(number::text::bytea), 'key ' || number,"
    " ARRAY['other-' || number %% 1000], ARRAY['features:read'], 'bench'"
    " FROM generate_series(1, %s) AS number"
)
_EXPORTS = (
    "INSERT INTO jobs (kind, tenant_id, arguments, status, result, created_at)"
    " SELECT 'export', %s, jsonb_build_object('feature_set', 'forecast_basic',"
    " 'start_time', now() - INTERVAL '1 day', 'end_time', now(),"
    " 'output_path', number || '.parquet', 'request_hash', number::text),"
    " 'completed', '{\"row_count\": 1}', now() - number * INTERVAL '1 second'"
    " FROM generate_series(1, %s) AS number"
)


@dataclass(frozen=True)
class Shape:
    """Number of tenants, and of meters per tenant."""

    tenants: int
    assets: int

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.tenants:,} tenants of {self.assets:,} meters"

    @property
    def meters(self) -> int:
        """Number of all meters."""
        return self.tenants * self.assets


@dataclass(frozen=True)
class Size:
    """Size of the data; fixed, so that runs can be compared."""

    shapes: tuple[Shape, ...]
    keys: int
    exports: int
    #: requests a second, and for how long at rest
    rate: int
    rest_s: int
    #: minutes of the hour that a shape takes at most
    minutes: int


FULL = Size((Shape(10, 10_000), Shape(1000, 100)), 100_000, 100_000, rate=100, rest_s=30, minutes=15)
SMALL = Size((Shape(3, 50), Shape(30, 5)), 1000, 1000, rate=50, rest_s=3, minutes=3)


def main() -> None:
    """Measure and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few meters: shows that it works")
    parser.add_argument("--server", choices=servers.available(), help="where TimescaleDB runs")
    parser.add_argument("--tenants", type=int, help="only the shape with so many tenants")
    parser.add_argument("--label", default="after", help="column of the table that is measured anew")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    server = arguments.server or servers.available()[-1]
    for shape in size.shapes:
        if arguments.tenants not in {None, shape.tenants}:
            continue
        _await_hour(size)
        with (
            servers.databases(server, (BENCHMARK,)) as databases,
            valkey() as keys,
            tempfile.TemporaryDirectory(prefix="fleet-") as name,
        ):
            dsn = databases[BENCHMARK].dsn
            fleet = _Fleet(dsn, keys, shape, size, Path(name))
            common = {
                "benchmark": BENCHMARK,
                "server": server,
                "seed": SEED,
                "work": f"{shape.name}, {arguments.label}",
                "shape": shape.name,
                "label": arguments.label,
                "command": f"python -m benchmarks.fleet{' --small' if arguments.small else ''}",
                "sizes": {"tenants": shape.tenants, "assets": shape.assets, "keys": size.keys},
                "versions": servers.versions(dsn),
            }
            record = common | measure.circumstances() | {"found": fleet.measure()}
        # the next shape may fail
        records = measure.select(measure.store(folder, [record]), BENCHMARK)
        write_report(folder, [record for record in records if record["server"] == server])
        _say(f"written to {folder}")


def _await_hour(size: Size) -> None:
    """Wait for the next hour if this one would end during the run: TimescaleDB's own clock is not shifted."""
    remaining = this_hour() + HOUR - datetime.now(UTC)
    if remaining < timedelta(minutes=size.minutes):
        _say(f"the next hour begins in {remaining.total_seconds():.0f} s")
        time.sleep(remaining.total_seconds() + 1)


class _Fleet:
    """One shape, from its readings to the table's numbers."""

    def __init__(self, dsn: str, keys: Valkey, shape: Shape, size: Size, folder: Path) -> None:
        self._dsn, self._valkey, self._shape, self._size = dsn, keys, shape, size
        self._hour = this_hour()
        self._tenants = [f"fleet-{number}" for number in range(shape.tenants)]
        self._keys: dict[str, KeyText] = {tenant: new_key() for tenant in self._tenants}
        url = f"redis://127.0.0.1:{keys.port}/0"
        variables = {"TIMESCALE_DSN": dsn, "REDIS_URL": url, "FEATURE_CACHE_TTL": str(_TTL_S)}
        self._library = _clock_library(folder)
        self._site = Site(folder, variables)
        self._streams = 0

    def measure(self) -> dict[str, Any]:
        """All measurements of the shape, by name."""
        self._fill()
        numbers: dict[str, Any] = {}
        at_rest = self._shifted(self._hour - timedelta(minutes=30))
        site = Site(self._site.folder, {**self._site.variables, **at_rest})
        _say("apply, materialize")
        started = time.monotonic()
        site.apply()
        seconds = time.monotonic() - started
        numbers["apply and materialize all, s"] = round(seconds, 1)
        settings = {"AI_HUB_API_RATE_LIMIT_PER_S": "1000000"}
        with service_site.running(Service(site, settings)) as service:
            _say("at rest")
            numbers |= self._at_rest(service)
            numbers |= self._lists(service)
        # the follower's first pass reads everything
        turning = self._shifted(self._hour - timedelta(seconds=1.5 * seconds + 20))
        site = Site(self._site.folder, {**self._site.variables, **turning})
        with service_site.running(Service(site, settings)) as service, self._following(site) as follower:
            service_load.run(service.port, self._stream(2))
            numbers |= self._turn(service, follower, site)
        numbers["load of the machine, 5 min"] = round(os.getloadavg()[1], 1)
        return numbers

    def _fill(self) -> None:
        _say(f"{self._shape.name}: readings")
        hour = {"hour": self._hour}
        with connect(self._dsn, autocommit=True) as connection:
            connection.execute(servers.PAUSE_JOBS)
            connection.execute(_ASSETS, [self._shape.tenants, self._shape.assets])
            at_once = max(1, _CHUNK // 10 // self._shape.assets)
            for first in range(0, len(self._tenants), at_once):
                connection.execute(_HISTORY, hour | {"tenants": self._tenants[first : first + at_once]})
            connection.execute("CALL refresh_feature_aggregates(NULL, NULL, false)")
            for statement in _STORE_ROWS:
                connection.execute(statement, hour)
            tenants, keys = list(self._keys), list(self._keys.values())
            connection.execute(
                _KEYS, [[key.key_id for key in keys], [digest(key.secret) for key in keys], tenants]
            )
            connection.execute(_MORE_KEYS, [self._size.keys])
            connection.execute(_EXPORTS, [self._tenants[0], self._size.exports])
            connection.execute("ANALYZE")

    def _shifted(self, start: datetime) -> dict[str, str]:
        """Environment of a process that starts now with its clock at `start`."""
        back = datetime.now(UTC) - start
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT_S": str(-round(back.total_seconds()))}

    def _stream(self, seconds: float) -> Stream:
        self._streams += 1
        choice = random.Random(SEED + self._streams)  # noqa: S311  # no secret
        bodies, headers = [], []
        for _ in range(20_000):
            tenant = choice.choice(self._tenants)
            asset = f"meter-{choice.randrange(self._shape.assets):05}"
            bodies.append(json.dumps({"tenant_id": tenant, "asset_id": asset, "feature_set": _SET}))
            headers.append({"x-api-key": str(self._keys[tenant])})
        return Stream(
            "reads", "POST", _PATH, bodies, seconds, rate=self._size.rate, headers=headers, patterns=_PATTERNS
        )

    def _at_rest(self, service: Service) -> dict[str, Any]:
        process = _process(service)
        service_load.run(service.port, self._stream(2))
        before, used = self._transactions(), _cpu(process)
        time.sleep(self._size.rest_s)
        idle_cpu, idle = _cpu(process) - used, self._transactions() - before
        before = self._transactions()
        outcome = service_load.run(service.port, self._stream(self._size.rest_s))["reads"]
        reads = self._transactions() - before
        return {
            "idle service, CPU s a minute": round(idle_cpu * 60 / self._size.rest_s, 2),
            "idle service, transactions a minute": round(idle * 60 / self._size.rest_s),
            "reads at rest, p50 ms": _ms(outcome.percentile(50)),
            "reads at rest, p99 ms": _ms(outcome.percentile(99)),
            "reads at rest, from Redis": f"{outcome.count(0)} of {len(outcome.status)}",
            "transactions for 1,000 of them": round(max(0, reads - idle) * 1000 / len(outcome.status)),
        }

    def _lists(self, service: Service) -> dict[str, Any]:
        key = str(self._keys[self._tenants[0]])
        numbers = {}
        for name, path in (
            ("/metrics, ms", "/metrics"),
            ("20 of 100,000 exports, ms", f"/ai/features/exports?tenant_id={self._tenants[0]}&limit=20"),
        ):
            seconds = []
            for _ in range(5):
                started = time.perf_counter()
                status, answer = service.ask("GET", path, key=key)
                seconds.append(time.perf_counter() - started)
                if status != 200:  # noqa: PLR2004
                    raise RuntimeError(f"{path}: {status} {answer}")
            numbers[name] = _ms(sorted(seconds)[2])
        return numbers

    @contextmanager
    def _following(self, site: Site) -> Iterator[subprocess.Popen[str]]:
        """A follower whose first pass is done."""
        program = str(Path(sys.executable).with_name("ai-hub"))
        with (site.folder / "follower.log").open("w") as log:
            process = subprocess.Popen(
                [program, "materialize", "--follow", "--interval", "1"],
                stdout=log,
                stderr=log,
                env=site.environment,
                cwd=site.folder,
                text=True,
            )
        try:
            self._await_line(site, process, "nothing new")
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def _await_line(self, site: Site, process: subprocess.Popen[str], words: str) -> None:
        started, log = time.monotonic(), site.folder / "follower.log"
        while words not in log.read_text():
            if time.monotonic() - started > _TURN_LIMIT_S or process.poll() is not None:
                raise RuntimeError(f"the follower does not come to {words!r}:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)

    def _turn(self, service: Service, follower: subprocess.Popen[str], site: Site) -> dict[str, Any]:
        """An hour turns over under load."""
        shift = int(site.environment["CLOCK_SHIFT_S"])
        wait = self._hour.timestamp() - (time.time() + shift)
        if wait < 0:
            _say(f"late by {-wait:.0f} s")
        time.sleep(max(0.0, wait))
        _say("the hour turns over")
        database = self._transactions()
        numbers: dict[str, Any] = {}
        with Load(service.port, [self._stream(_TURN_LIMIT_S)]) as load:
            started = time.monotonic()
            with connect(self._dsn, autocommit=True) as connection:
                for first in range(0, self._shape.meters, _CHUNK):
                    connection.execute(_READINGS, [self._hour - HOUR, first, _CHUNK])
            arrived = time.monotonic()
            # what comes next is five minutes later in real life: the last hour's rows were good for so long
            time.sleep(max(0.0, started + _TTL_S + 1 - arrived))
            refreshing = time.monotonic()
            self._site.run("ai-hub", "refresh")
            refreshed = time.monotonic()
            self._await_line(site, follower, "1 refresh in")
            finished = time.monotonic()
            numbers["readings arrive, s"] = round(arrived - started, 1)
            numbers["refresh, s"] = round(refreshed - refreshing, 1)
            numbers["then in Redis, s"] = round(finished - refreshed, 1)
            numbers["an hour turns over in, s"] = round(finished - refreshing, 1)
            load.stop()
            outcome = load.outcomes()["reads"]
        transactions = self._transactions() - database
        return numbers | {
            "reads meanwhile, p50 ms": _ms(outcome.percentile(50)),
            "reads meanwhile, p99 ms": _ms(outcome.percentile(99)),
            "reads meanwhile, from TimescaleDB": f"{outcome.count(1)} of {len(outcome.status)}",
            "reads meanwhile, degraded or failed": outcome.count(2)
            + sum(status != 200 for status in outcome.status),  # noqa: PLR2004
            "transactions meanwhile": transactions,
        }

    def _transactions(self) -> int:
        with connect(self._dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        return int(row[0]) if row else 0


def _clock_library(folder: Path) -> Path:
    library = folder / "shifted_clock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_CLOCK), "-ldl"], check=True)
    return library


def _process(service: Service) -> psutil.Process:
    if service.process is None:
        raise RuntimeError("the service does not run")
    return psutil.Process(service.process.pid)


def _cpu(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


_INTRO = """# A fleet at the turn of an hour

100,000 meters of 10 and of 1,000 tenants, 100,000 API keys and 100,000 finished exports on a native
TimescaleDB. The history is that of the hours which the features look at. `FEATURE_CACHE_TTL` is ten seconds,
so that what five minutes after the hour bring is there ten seconds after it: readings of all meters arrive at
the hour, eleven seconds after it `ai-hub refresh` begins, and a running `ai-hub materialize --follow` brings
the rows into Redis. All the time 100 requests a second read `forecast_basic` of one meter each; "degraded or
failed" are answers with `degraded: true` or another status than 200.

A machine of {cpus} CPUs carries TimescaleDB, Valkey, service, follower and load; the last row tells what else
it was doing.

Columns "before" are of code 6eee22c. Since then keys are read by id, nothing is read for an answer that Redis
has, and rows stay current while the follower brings their successors. A refresh computes single hours without
windows, in two sessions of 5,000 rows a transaction, and looks superseded versions up by key; rows go to
Redis as columns, and a follower reads those that were computed. Columns "before" had shared_buffers 2GB and
work_mem 32MB, on a machine that was shared with other work.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}; {versions}.

"""


def write_report(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `fleet.md`: a row for each number, a column for each shape and label."""
    records = sorted(records, key=lambda record: (record["sizes"]["tenants"], record["label"] != "before"))
    names = list(dict.fromkeys(name for record in records for name in record["found"]))
    lines = [
        f"| | {' | '.join(record['work'] for record in records)} |",
        "|---" + "|---:" * len(records) + "|",
        *(
            f"| {name} | {' | '.join(str(record['found'].get(name, '')) for record in records)} |"
            for name in names
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = _INTRO.format(**measure.description(records[-1])) + "\n".join(lines) + "\n"
    (folder / "fleet.md").write_text(text)


if __name__ == "__main__":
    main()
