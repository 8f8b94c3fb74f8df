"""Online reads from Redis: Feast's own store, ours, and redis-py as the floor; and their HTTP servers.

    python -m benchmarks.online [--small] [--output FOLDER]

Measures on a Valkey that it starts. Every read goes as far as the message with values, statuses and times.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import feast
import hiredis
import matplotlib as mpl
import numpy as np
import pandas as pd
import redis
from feast import FeatureService, FeatureStore
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from matplotlib.figure import Figure

from ai_hub import paths
from benchmarks import http_load, measure
from benchmarks.comparison import FLOOR, OURS, STOCK, Comparison
from benchmarks.feast_repository import Table, entities
from benchmarks.measure import format_time, save
from benchmarks.servers import Valkey, clean_up_when_terminated, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


BENCHMARK = "online"
SEED = 20_261_125
PROJECT = "bench"
#: Requests of one kind before those of another: what the processor keeps at hand is theirs.
_IN_A_ROW = 10
CONNECTIONS = 4
REQUEST_ROWS = 100
STORES = {STOCK: "redis", OURS: "feast_plugins.online_store.CorrectableRedisOnlineStore"}
WIDE = Table("wide", tuple(f"f{number}" for number in range(13)))


@dataclass(frozen=True)
class Request:
    """A request to each store. Views of different requests share no hash, as each has its own tenant."""

    name: str
    tenant: str
    view: str
    #: references to features, or a service
    features: list[str] | FeatureService

    def rows(self, count: int) -> list[dict[str, str]]:
        """Entity rows."""
        return [{"tenant_id": self.tenant, "asset_id": f"meter-{number:05}"} for number in range(count)]

    def read(self, store: FeatureStore, count: int) -> Callable[[], object]:
        """The request to a store."""
        rows = self.rows(count)
        return lambda: store.get_online_features(self.features, rows).proto

    def floor(self, client: redis.Redis, store: FeatureStore, count: int) -> Callable[[], object]:
        """A read of the same hashes and fields."""
        keys = [_redis_key(PROJECT, _entity_key(row)) for row in self.rows(count)]
        names = [field.name for field in store.get_feature_view(self.view).features]
        fields = [*(_mmh3(f"{self.view}:{name}") for name in names), f"_ts:{self.view}"]

        def run() -> object:
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, fields)
                return pipe.execute()

        return run


sys.path.insert(0, str(paths.resource("feature_repo")))
from services import forecast_advanced  # type: ignore[import-not-found]  # noqa: E402  # found by the line above
from views import forecast_advanced as advanced  # type: ignore[import-not-found]  # noqa: E402

REQUESTS = (
    Request("13 features", "city-works", WIDE.name, WIDE.references()),
    Request("8 stored features and 5 on demand", "harbour", "forecast_advanced_features", forecast_advanced),
)
OBJECTS = [
    *(*entities(), WIDE.view()),
    *(advanced.forecast_advanced_features, advanced.forecast_advanced_calendar, forecast_advanced),
]


@dataclass(frozen=True)
class Size:
    """Size of the run; fixed, so that runs can be compared."""

    #: repetitions by number of entities
    rounds: Mapping[int, int]
    #: seconds a server is kept busy, as often as `turns`
    seconds: float
    turns: int


FULL = Size({1: 2000, 100: 400, 1000: 60}, seconds=5, turns=3)
SMALL = Size({1: 20, 100: 5, 1000: 2}, seconds=0.5, turns=1)


def main() -> None:
    """Measure and write records, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few requests: shows that it works")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Feast's, of things that are not measured here
    clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    circumstances = measure.circumstances()
    with valkey() as server, tempfile.TemporaryDirectory(prefix="online-") as temporary:
        stores = _stores(server, Path(temporary))
        client = redis.Redis(port=server.port)
        # what Feast has loaded would be searched for garbage in the middle of anybody's request
        gc.collect()
        gc.freeze()
        common = {
            "benchmark": BENCHMARK,
            "server": "valkey",
            "seed": SEED,
            "command": "make bench SMALL=1" if arguments.small else "make bench",
            "versions": {
                "valkey": str(client.info("server").get("valkey_version", "")),  # type: ignore[union-attr]  # not async
                "feast": feast.__version__,
                "redis-py": redis.__version__,
                "hiredis": hiredis.__version__,
                "python": sys.version.split()[0],
            },
        }
        comparisons = [*_reads(stores, client, size), _servers(Path(temporary), size)]
        records = [common | _record(comparison, size) | circumstances for comparison in comparisons]
    measure.store(folder, records)
    write_report(folder, records)
    print(f"written to {folder}")


def _stores(server: Valkey, folder: Path) -> dict[str, FeatureStore]:
    """A repository a variant, on one Redis; the rows are written once."""
    stores = {}
    for variant, kind in STORES.items():
        repository = folder / variant
        repository.mkdir()
        (repository / "feature_store.yaml").write_text(
            json.dumps(  # JSON is YAML
                {
                    "project": PROJECT,
                    "provider": "local",
                    "registry": {
                        "registry_type": "sql",
                        "path": f"sqlite:///{repository}/registry.db",
                        "cache_ttl_seconds": 60,
                    },
                    "online_store": {"type": kind, "connection_string": server.connection_string},
                    "offline_store": {"type": "file"},
                    "entity_key_serialization_version": 3,
                }
            )
        )
        stores[variant] = FeatureStore(str(repository))
        stores[variant].apply(OBJECTS)
    _fill(stores[STOCK])
    return stores


def _fill(store: FeatureStore) -> None:
    random = np.random.default_rng(SEED)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for request in REQUESTS:
        view = store.get_feature_view(request.view)
        rows = []
        for row in request.rows(max(FULL.rounds)):
            values = {field.name: Value(double_val=random.normal()) for field in view.features}
            if "local_time" in values:
                values["local_time"] = Value(int64_val=int(now.timestamp()))
            rows.append((_entity_key(row), values, now, None))
        store.provider.online_store.online_write_batch(store.config, view, rows, None)


def _entity_key(row: Mapping[str, str]) -> EntityKey:
    return EntityKey(join_keys=list(row), entity_values=[Value(string_val=text) for text in row.values()])


def _reads(stores: dict[str, FeatureStore], client: redis.Redis, size: Size) -> Iterator[Comparison]:
    for request in REQUESTS:
        for count, rounds in size.rounds.items():
            _say(f"{request.name}: {count} entities")
            works = {variant: request.read(store, count) for variant, store in stores.items()}
            works[FLOOR] = request.floor(client, stores[STOCK], count)
            comparison = Comparison(
                f"{count:,} {'entity' if count == 1 else 'entities'}, {request.name}",
                "redis-py: the same HMGETs in a pipeline",
                {"entities": count},
            )
            for work in works.values():  # connections and caches
                work()
            for number in range(rounds // _IN_A_ROW or 1):
                for variant in list(works)[:: -1 if number % 2 else 1]:
                    for _ in range(_IN_A_ROW):
                        comparison.times[variant].measure(works[variant])
            yield comparison


def _servers(folder: Path, size: Size) -> Comparison:
    request = REQUESTS[0]
    entities_asked = pd.DataFrame(request.rows(REQUEST_ROWS)).to_dict("list")
    content = json.dumps({"features": request.features, "entities": entities_asked}).encode()
    comparison = Comparison(
        f"HTTP, {REQUEST_ROWS} entities, {request.name}, {CONNECTIONS} connections",
        "uvicorn: always the same bytes",
        {"entities": REQUEST_ROWS, "connections": CONNECTIONS},
    )
    with ExitStack() as stack:
        ports = {
            STOCK: stack.enter_context(http_load.served(http_load.stock_command, folder / STOCK)),
            OURS: stack.enter_context(http_load.served(http_load.our_command, folder / OURS)),
        }
        (folder / "answer.json").write_bytes(http_load.ask(ports[OURS], content))
        ports[FLOOR] = stack.enter_context(http_load.served(http_load.floor_command, folder))
        for _ in range(size.turns):
            for variant, port in ports.items():
                _say(f"HTTP: {variant}")
                comparison.times[variant].runs += http_load.latencies(
                    port, content, connections=CONNECTIONS, seconds=size.seconds
                )
    return comparison


def _record(comparison: Comparison, size: Size) -> dict[str, Any]:
    """The comparison's record, with the 99th percentile."""
    record = comparison.record()
    for variant, times in comparison.times.items():
        seconds = record["seconds"][variant]
        seconds["p99"] = round(statistics.quantiles(times.runs, n=100, method="inclusive")[98], 5)
        if "connections" in comparison.sizes:
            seconds["requests_per_second"] = round(len(times.runs) / (size.turns * size.seconds), 1)
    return record


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f", FLOOR: "#8fbf8f"}
_NAME = "online"
_INTRO = """# Online reads

Feast's own Redis store, ours and the floor in the same run, on the same rows of the same Valkey, in turns.
Each read goes as far as the message with values, statuses and event times. The HTTP servers are `feast serve`
and ours, one process each; {connections} clients ask them, each again as soon as it is answered.

The floor of a read is redis-py fetching the same fields of the same hashes in one pipeline, and nothing more:
no keys are made, nothing becomes a response. That of the servers is the same web server sending the same
bytes.
"""


def write_report(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `online.md` and `online.svg`."""
    first = records[0]
    machine = first["machine"]
    versions = ", ".join(f"{what} {version}" for what, version in first["versions"].items())
    connections = max(record["sizes"].get("connections", 0) for record in records)
    text = [
        _INTRO.format(connections=connections),
        (
            f"Made by `{first['command']}` on {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
            f"{machine['system']}; {versions}. Code {first['commit']}, "
            f"{first['measured_at']}.\n"
        ),
        "![Milliseconds by stock Feast, by ours and at the floor](online.svg)\n",
        "| | stock p50 | p99 | ours p50 | p99 | floor p50 | p99 | stock / ours | ours / floor |",
        "|---|" + "---:|" * 8,
        *(_row(record) for record in records),
        "",
        *(_server(record) for record in records if "connections" in record["sizes"]),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.md").write_text("\n".join(text) + "\n")
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{_NAME}.svg", records)


def _row(record: dict[str, Any]) -> str:
    times = [
        format_time(record["seconds"][variant][which])
        for variant in (STOCK, OURS, FLOOR)
        for which in ("median", "p99")
    ]
    ratios = record["ratios"]
    cells = [*times, f"**{ratios['stock to ours']:.3g}**", f"{ratios['ours to floor']:.2f}"]
    return f"| {record['work']} | {' | '.join(cells)} |"


def _server(record: dict[str, Any]) -> str:
    rates = {variant: times["requests_per_second"] for variant, times in record["seconds"].items()}
    return (
        f"{record['work']}: {rates[STOCK]:,.0f} requests a second by `feast serve`, {rates[OURS]:,.0f} by "
        f"ours, {rates[OURS] / rates[STOCK]:.1f} times as many; {rates[FLOOR]:,.0f} at the floor."
    )


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.85 * len(records)), layout="constrained")
    axes = figure.subplots()
    for position, record in enumerate(reversed(records)):
        for offset, variant in zip((0.27, 0, -0.27), _COLOURS, strict=True):
            times = record["seconds"][variant]
            middle, late = times["median"] * 1000, times["p99"] * 1000
            axes.barh(position + offset, middle, 0.26, color=_COLOURS[variant])
            axes.plot([middle, late], [position + offset] * 2, color="#999999", linewidth=1)
            axes.plot(late, position + offset, marker="|", color="#999999")
            axes.annotate(
                format_time(times["median"]), (late, position + offset), (4, -3), textcoords="offset points"
            )
    axes.set_yticks(range(len(records)), [record["work"] for record in reversed(records)])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log scale): median, and the line ends at the 99th percentile")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=3)
    save(figure, path)


if __name__ == "__main__":
    main()
