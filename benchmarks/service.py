"""Latency of the REST service at a fixed rate of requests, and its maximum requests per second.

    python -m benchmarks.service [--small] [--server embedded|native] [--output FOLDER]

One worker process with keys, TimescaleDB and a Valkey that it starts; `feast serve` on the same rows of the
same Valkey in turns with it, and the same web server sending the same bytes as the floor.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence  # dataclass fields
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import feast
import numpy as np
import psutil
import redis
import yaml

from ai_hub import paths
from benchmarks import http_load, measure, servers, service_load, service_report, service_site
from benchmarks.comparison import FLOOR, OURS, STOCK
from benchmarks.history import this_hour
from benchmarks.servers import Valkey, valkey
from benchmarks.service_load import Outcome, Stream
from benchmarks.service_site import TENANTS, Service, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCHMARK = "service"
SEED = 20_261_127
BATCH_ASSETS = 100
CONNECTIONS = 4
PATH = "/ai/features/get"
_SETS = {"forecast_basic": 10, "anomaly_detection": 10, "forecast_advanced": 20}
#: Between two times at which Redis is emptied; an asset is asked again later than that.
_EMPTIED_S = 1.0
PATTERNS = ('"source":"redis"', '"source":"timescaledb"', '"degraded":true')


@dataclass(frozen=True)
class Size:
    """Size of the run; fixed, so that runs can be compared."""

    assets: int
    days: int
    #: each stream is sent so long, so often
    seconds: float
    turns: int


FULL = Size(assets=100, days=30, seconds=6, turns=2)
SMALL = Size(assets=100, days=8, seconds=1, turns=1)


@dataclass(frozen=True)
class Work:
    """One kind of request."""

    name: str
    #: what each variant is asked, by variant
    bodies: Mapping[str, Sequence[str]]
    rate: float = 0
    connections: int = 0
    #: milliseconds that 99 of 100 requests may take
    limit_ms: int | None = None
    #: Redis is empty whenever an asset is asked for
    emptied: bool = False
    #: where all of our answers must come from
    source: int = 0


@dataclass
class Variants:
    """The servers under load, by variant."""

    ports: dict[str, int]
    keys: dict[str, str]
    #: our process
    ours: psutil.Process

    def stream(self, work: Work, variant: str, seconds: float) -> Stream:
        """The requests of `work` to one variant."""
        bodies = work.bodies[variant]
        headers = [
            {"x-api-key": self.keys[tenant]} if variant == OURS else {}
            for tenant in (TENANTS[number % len(TENANTS)] for number in range(len(bodies)))
        ]
        return Stream(
            work.name,
            "POST",
            PATH if variant == OURS else http_load.PATH,
            bodies,
            seconds,
            rate=work.rate,
            connections=work.connections,
            headers=headers,
            patterns=PATTERNS,
        )


def main() -> None:
    """Measure and write records, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few requests: shows that it works")
    parser.add_argument("--server", choices=servers.available(), help="where TimescaleDB runs")
    parser.add_argument("--only", action="append", help="works with these words in their names; repeatable")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    server = arguments.server or servers.available()[-1]
    with (
        servers.databases(server, (BENCHMARK,)) as databases,
        valkey() as keys,
        tempfile.TemporaryDirectory(prefix="service-") as name,
    ):
        url = f"redis://127.0.0.1:{keys.port}/0"
        site = Site(Path(name), {"TIMESCALE_DSN": databases[BENCHMARK].dsn, "REDIS_URL": url})
        _say("readings, features, registry")
        series = site.fill(size.assets, size.days)
        site.apply()
        with _serving(site, keys) as variants:
            works = [
                work
                for work in _works(series.names)
                if not arguments.only or any(words in work.name for words in arguments.only)
            ]
            measured = _measure(site, keys, variants, works, size)
        common = {
            "benchmark": BENCHMARK,
            "server": server,
            "seed": SEED,
            "command": "make bench SMALL=1" if arguments.small else "make bench",
            "sizes": {"tenants": len(TENANTS), "assets": size.assets, "days": size.days},
            "versions": servers.versions(databases[BENCHMARK].dsn)
            | {
                "valkey": str(redis.Redis(port=keys.port).info("server").get("valkey_version", "")),  # type: ignore[union-attr]  # not async
                "feast": feast.__version__,
            },
        } | measure.circumstances()
    new_records = [common | record for record in measured]
    records = measure.select(measure.store(folder, new_records), BENCHMARK)
    service_report.write(folder, [record for record in records if record["server"] == server])
    print(f"written to {folder}")


@contextmanager
def _serving(site: Site, keys: Valkey) -> Iterator[Variants]:
    """Ours, `feast serve` on the same registry and rows, and the floor with one of our answers."""
    stock = site.folder / "stock"
    stock.mkdir()
    configuration = yaml.safe_load((paths.resource("feature_repo") / "feature_store.yaml").read_text())
    plain = {
        "project": configuration["project"],
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": site.environment["FEAST_REGISTRY_URI"],
            "cache_ttl_seconds": 60,
        },
        "online_store": {"type": "redis", "connection_string": keys.connection_string},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    (stock / "feature_store.yaml").write_text(yaml.safe_dump(plain))
    # more than anybody may ask by default, as the clients ask as fast as they can
    settings = {"AI_HUB_API_RATE_LIMIT_PER_S": "1000000"}
    with ExitStack() as stack:
        ours = stack.enter_context(service_site.running(Service(site, settings)))
        secret = {tenant: site.key(tenant) for tenant in TENANTS}
        body = json.loads(_ours(["meter-000"], "forecast_basic")[0])
        status, answer = ours.ask("POST", PATH, body, key=secret[TENANTS[0]])
        if status != http_load.http.HTTPStatus.OK:
            raise RuntimeError(f"{status}: {answer}")
        (site.folder / "answer.json").write_bytes(json.dumps(answer, separators=(",", ":")).encode())
        ports = {
            OURS: ours.port,
            STOCK: stack.enter_context(http_load.served(http_load.stock_command, stock)),
            FLOOR: stack.enter_context(http_load.served(http_load.floor_command, site.folder)),
        }
        if ours.process is None:
            raise RuntimeError("the service does not run")
        yield Variants(ports, secret, psutil.Process(ours.process.pid))


def _works(assets: Sequence[str]) -> list[Work]:
    """The requests; assets in random order, tenants alternating."""
    order = random.Random(SEED).sample(assets, len(assets))  # noqa: S311  # no secret
    everything = list(assets)[:BATCH_ASSETS]
    floor = {FLOOR: ["{}"]}
    works = [
        Work(
            f"{name}, 1 asset",
            {STOCK: _stock(order, name), OURS: _ours(order, name)} | floor,
            rate=200,
            limit_ms=limit,
        )
        for name, limit in _SETS.items()
    ]
    batch = {"tenant_id": "", "asset_ids": everything, "feature_set": "forecast_basic"}
    entities = [[tenant] * len(everything) for tenant in TENANTS]
    ours = [json.dumps(batch | {"tenant_id": tenant}) for tenant in TENANTS]
    batches = {
        OURS: ours,
        STOCK: [
            json.dumps(
                {
                    "feature_service": "forecast_basic",
                    "entities": {"tenant_id": tenants, "asset_id": everything},
                }
            )
            for tenants in entities
        ],
    }
    hours = [this_hour() - timedelta(hours=number) for number in range(24, 24 * 7)]
    past = [
        json.dumps(json.loads(body) | {"timestamp": hours[number % len(hours)].isoformat()})
        for number, body in enumerate(_ours(order, "forecast_advanced"))
    ]
    return [
        *works,
        Work(
            f"forecast_basic, {BATCH_ASSETS} assets in one call", {OURS: batches[OURS]}, rate=20, limit_ms=50
        ),
        Work("forecast_advanced at a past time", {OURS: past}, rate=50, source=1),
        Work(
            "forecast_basic, 1 asset, closed loop",
            {STOCK: _stock(order, "forecast_basic")} | {OURS: _ours(order, "forecast_basic")} | floor,
            connections=CONNECTIONS,
        ),
        Work(f"forecast_basic, {BATCH_ASSETS} assets, closed loop", batches, connections=CONNECTIONS),
        # the last of a turn: nothing is in Redis after it
        *(
            Work(
                f"{name}, 1 asset that Redis lost",
                {OURS: _ours(order, name)},
                rate=50,
                limit_ms=60,
                emptied=True,
                source=1,
            )
            for name in ("forecast_basic", "forecast_advanced")
        ),
    ]


def _ours(assets: Sequence[str], name: str) -> list[str]:
    return [
        json.dumps({"tenant_id": tenant, "asset_id": asset, "feature_set": name})
        for asset in assets
        for tenant in TENANTS
    ]


def _stock(assets: Sequence[str], name: str) -> list[str]:
    return [
        json.dumps({"feature_service": name, "entities": {"tenant_id": [tenant], "asset_id": [asset]}})
        for asset in assets
        for tenant in TENANTS
    ]


def _measure(
    site: Site, keys: Valkey, variants: Variants, works: list[Work], size: Size
) -> list[dict[str, Any]]:
    outcomes_by_work: dict[str, dict[str, list[Outcome]]] = {work.name: {} for work in works}
    cpu_s: dict[str, float] = dict.fromkeys(outcomes_by_work, 0.0)
    for turn in range(size.turns):
        if turn:
            site.materialize()
        for work in works:
            for variant in list(work.bodies)[:: -1 if turn % 2 else 1]:
                _say(f"{work.name}: {variant}")
                stream = variants.stream(work, variant, size.seconds)
                before = sum(variants.ours.cpu_times()[:2])
                with _emptied(keys, work):
                    outcome = service_load.run(variants.ports[variant], stream)[work.name]
                if variant == OURS:
                    cpu_s[work.name] += sum(variants.ours.cpu_times()[:2]) - before
                outcomes_by_work[work.name].setdefault(variant, []).append(outcome)
    return [_record(work, outcomes_by_work[work.name], size, cpu_s[work.name]) for work in works]


@contextmanager
def _emptied(keys: Valkey, work: Work) -> Iterator[None]:
    """Flush Redis repeatedly, if the work measures that."""
    ended = threading.Event()

    def empty() -> None:
        with redis.Redis(port=keys.port) as client:
            while not ended.is_set():
                client.flushdb()
                ended.wait(_EMPTIED_S)

    thread = threading.Thread(target=empty)
    if work.emptied:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if work.emptied:
            thread.join()


def _record(
    work: Work, outcomes_by_variant: Mapping[str, list[Outcome]], size: Size, cpu_s: float
) -> dict[str, Any]:
    seconds = {variant: _summary(outcomes, size) for variant, outcomes in outcomes_by_variant.items()}
    answers = outcomes_by_variant[OURS]
    record: dict[str, Any] = {
        "work": work.name,
        "rate": work.rate,
        "connections": work.connections,
        "limit_ms": work.limit_ms,
        "seconds": seconds,
        "ratios": _ratios(work, seconds),
        "cpu_us": round(cpu_s * 1e6 / sum(len(outcome.seconds) for outcome in answers)),
        "from redis": sum(outcome.count(0) for outcome in answers),
        "from timescaledb": sum(outcome.count(1) for outcome in answers),
        "degraded": sum(outcome.count(2) for outcome in answers),
    }
    for variant, outcomes in outcomes_by_variant.items():
        if set(seconds[variant]["statuses"]) != {"200"}:
            failures = [(outcome.statuses(), outcome.failures, outcome.samples) for outcome in outcomes]
            _say(f"{work.name}, {variant}: {failures}")
    other = "from timescaledb" if work.source == 0 else "from redis"
    if record[other] or record["degraded"]:
        _say(f"{work.name}: {record[other]} answers {other}, {record['degraded']} degraded")
    return record


def _summary(outcomes: list[Outcome], size: Size) -> dict[str, Any]:
    seconds = np.concatenate([outcome.seconds for outcome in outcomes])
    statuses: dict[str, int] = {}
    for outcome in outcomes:
        for status, count in outcome.statuses().items():
            statuses[str(status)] = statuses.get(str(status), 0) + count
    return {
        "median": round(float(np.percentile(seconds, 50)), 5),
        "p99": round(float(np.percentile(seconds, 99)), 5),
        "max": round(float(seconds.max()), 5),
        "min": round(float(seconds.min()), 5),
        "runs": len(seconds),
        "requests_per_second": round(len(seconds) / (size.turns * size.seconds), 1),
        "statuses": statuses,
    }


def _ratios(work: Work, seconds: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Of medians; in a closed loop of requests a second, so that more is better there as well."""
    measure, sign = ("requests_per_second", -1) if work.connections else ("median", 1)
    return {
        name: round((seconds[above][measure] / seconds[below][measure]) ** sign, 3)
        for name, above, below in (
            ("stock to ours", STOCK, OURS),
            ("ours to floor", OURS, FLOOR),
        )
        if {above, below} <= seconds.keys()
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
