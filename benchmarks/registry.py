"""The model registry: stock MLflow and ours, on the same databases and the same S3 store, in turns.

    python -m benchmarks.registry [--small] [--output FOLDER]

Starts its servers itself, one worker each. What is measured is what a client waits for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import matplotlib as mpl
import mlflow
import numpy as np
import psycopg
import requests
import sqlalchemy
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from benchmarks import measure, mlflow_servers
from benchmarks.comparison import OURS, STOCK, Comparison
from benchmarks.measure import format_time, paired_ratio, save
from benchmarks.servers import clean_up_when_terminated, postgres, stack
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


_API: Final = "/api/2.0/mlflow"
_ARCHIVED, _PRODUCTION = "Archived", "Production"


@dataclass(frozen=True)
class Logged:
    """A model among a run's artifacts."""

    run_id: str
    source: str


@dataclass
class Registry:
    """A running server and the database behind it."""

    url: str
    database: str
    #: whether it is ours, which refuses some of what stock MLflow does
    ours: bool
    session: requests.Session = field(default_factory=requests.Session)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client."""
        return MlflowClient(self.url, self.url)

    def log(self, size: int, seed: int) -> Logged:
        """Log a model of about `size` bytes in five files."""
        experiment = self.client.create_experiment(f"experiment {size}")
        run = self.client.create_run(experiment).info
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}}))
            for requirements in ("requirements.txt", "conda.yaml", "python_env.yaml"):
                (folder / requirements).write_text("lightgbm==4.6.0\n")
            (folder / "model.lgb").write_bytes(np.random.default_rng(seed).bytes(size))
            self.client.log_artifacts(run.run_id, name, "model")
        return Logged(run.run_id, f"{run.artifact_uri}/model")

    def create(self, model: str) -> None:
        """A model without versions."""
        self._call("POST", "registered-models/create", {"name": model})

    def register(self, model: str, logged: Logged) -> str:
        """A new version, in Staging; returns its number."""
        body = {"name": model, "source": logged.source, "run_id": logged.run_id}
        return str(self._call("POST", "model-versions/create", body)["model_version"]["version"])

    def fill(self, model: str, count: int) -> None:
        """Create many versions without files, directly in the database."""
        store = self._store()
        for _ in range(count):
            store.create_model_version(model, "filling")
        store._dispose_engine()  # noqa: SLF001  # there is no other way to close its connections

    def promote(self, model: str, version: str) -> None:
        """Promote a version by the call of the stage menu."""
        self._move(model, version, _PRODUCTION)

    def make_promotable(self, model: str, version: str) -> None:
        """Take a version out of Production, so that it can be promoted again."""
        self._move(model, version, _ARCHIVED)

    def settle(self, model: str, version: str) -> None:
        """Make `models:/MODEL@production` a version that is in Production; ours has done it by then."""
        if not self.ours:
            self.client.set_registered_model_alias(model, "production", version)

    def resolve(self, model: str) -> str:
        """Where the files of `models:/MODEL@production` are, by the two calls of MLflow's client."""
        answer = self._call("GET", "registered-models/alias", {"name": model, "alias": "production"})
        version = {"name": model, "version": answer["model_version"]["version"]}
        return str(self._call("GET", "model-versions/get-download-uri", version)["artifact_uri"])

    def load(self, model: str) -> int:
        """Download `models:/MODEL@production`; returns how many bytes."""
        folder = tempfile.mkdtemp()
        try:
            get_artifact_repository(self.resolve(model), tracking_uri=self.url).download_artifacts("", folder)
            return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        finally:
            shutil.rmtree(folder)

    def _move(self, model: str, version: str, stage: str) -> None:
        # ours archives the previous one whatever this says; stock MLflow fails in it with psycopg 3
        body = {"name": model, "version": version, "stage": stage, "archive_existing_versions": False}
        self._call("POST", "model-versions/transition-stage", body)

    def _store(self) -> SqlAlchemyStore:
        return LifecycleStore(f"lifecycle+{self.database}") if self.ours else SqlAlchemyStore(self.database)

    def _call(self, method: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        argument = "params" if method == "GET" else "json"
        answer = self.session.request(method, f"{self.url}{_API}/{path}", timeout=300, **{argument: fields})
        if not answer.ok:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
        return dict(answer.json())


BENCHMARK: Final = "registry"
SEED: Final = 20_261_125
#: Requests of one kind before those of another: what the processor keeps at hand is theirs.
_IN_A_ROW: Final = 10
_APPS: Final = {STOCK: mlflow_servers.STOCK, OURS: "ai-hub"}
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Size:
    """Size of the run; fixed, so that runs can be compared."""

    databases: tuple[str, ...]
    #: bytes of the models, and how often each is registered and loaded
    models: Mapping[int, int]
    #: how many versions a model has, and how often one is promoted
    versions: Mapping[int, int]
    resolutions: int


FULL = Size(
    ("sqlite", "postgresql"), {50_000: 60, 200 * _MIB: 5}, {1: 60, 100: 60, 1000: 60}, resolutions=1000
)
SMALL = Size(("sqlite",), {50_000: 1, 9 * _MIB: 1}, {1: 1, 3: 1}, resolutions=10)


def main() -> None:
    """Measure and write records, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few requests: shows that it works")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    with stack("s3") as (s3, _):
        run(size, s3, folder, "make bench SMALL=1" if arguments.small else "make bench")
    print(f"written to {folder}")


def run(size: Size, s3: Mapping[str, str], folder: Path, command: str) -> None:
    """Measure with the S3 store of these settings, and write into `folder`."""
    # a progress bar is not what is measured
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    circumstances = measure.circumstances()
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="registry-") as temporary:
        for server in size.databases:
            work_folder = Path(temporary, server)
            work_folder.mkdir()
            common = {"benchmark": BENCHMARK, "server": server, "seed": SEED, "command": command}
            with _registries(server, s3, work_folder) as (registries, versions):
                common |= {"versions": versions}
                records += [
                    common | _record(comparison) | circumstances for comparison in _measured(registries, size)
                ]
    measure.store(folder, records)
    write_report(folder, records)


@contextmanager
def _registries(
    server: str, s3: Mapping[str, str], folder: Path
) -> Iterator[tuple[dict[str, Registry], dict[str, str]]]:
    """A registry a variant, each with a database of its own, and the versions of what runs."""
    versions = {"mlflow": mlflow.__version__, "boto3": boto3.__version__}
    with ExitStack() as running:
        if server == "postgresql":
            admin = running.enter_context(postgres()).dsn
            urls = {variant: _database(admin, variant) for variant in _APPS}
            with psycopg.connect(admin) as connection:
                row = connection.execute("SHOW server_version").fetchone()
            versions["postgresql"] = str(row[0] if row else "").split(" ")[0]
        else:
            urls = {variant: f"sqlite:///{folder}/{variant}.db" for variant in _APPS}
            migrate(folder / f"{STOCK}.db")
            shutil.copy(
                folder / f"{STOCK}.db", folder / f"{OURS}.db"
            )  # faster than to create the tables again
            row = sqlalchemy.create_engine("sqlite://").dialect.dbapi.sqlite_version  # type: ignore[union-attr]
            versions["sqlite"] = str(row)
        registries = {}
        for variant, app in _APPS.items():
            logs = folder / variant
            logs.mkdir()
            served = running.enter_context(mlflow_servers.running(urls[variant], s3, logs, app=app))
            registries[variant] = Registry(served.url, urls[variant], ours=variant == OURS)
        yield registries, versions | {"python": sys.version.split()[0]}


def migrate(path: Path) -> None:
    """Create MLflow's tables in a SQLite database."""
    SqlAlchemyStore(f"sqlite:///{path}")._dispose_engine()  # noqa: SLF001  # there is no other way to close it


def _database(admin: str, name: str) -> str:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{admin.rpartition('/')[0]}/{name}"


def _measured(registries: Mapping[str, Registry], size: Size) -> Iterator[Comparison]:
    logged = {}
    for size_bytes, rounds in size.models.items():
        model = f"model-{size_bytes}"
        for variant, registry in registries.items():
            logged[variant, size_bytes] = registry.log(size_bytes, SEED)
            registry.create(model)
        yield from _life_of(
            model, registries, {v: logged[v, size_bytes] for v in registries}, size_bytes, rounds
        )
    small = {variant: logged[variant, min(size.models)] for variant in registries}
    for count, rounds in size.versions.items():
        yield from _among_many(registries, small, count, rounds, size.resolutions)


def _life_of(
    model: str, registries: Mapping[str, Registry], logged: Mapping[str, Logged], size: int, rounds: int
) -> Iterator[Comparison]:
    """Registering and loading a model of `size` bytes."""
    files = _bytes(size)
    _say(f"register {files}")
    registering = Comparison(f"register, {files}", "", {"bytes": size})

    def register(variant: str) -> Callable[[], object]:
        return lambda: registries[variant].register(model, logged[variant])

    works = {variant: register(variant) for variant in registries}
    versions = {variant: str(work()) for variant, work in works.items()}
    registering.run_interleaved(works, rounds)
    yield registering
    _say(f"load {files}")
    for variant, registry in registries.items():
        registry.promote(model, versions[variant])
        registry.settle(model, versions[variant])
    loading = Comparison(f"load `models:/…@production`, {files}", "", {"bytes": size})
    loads = {variant: partial(registry.load, model) for variant, registry in registries.items()}
    for load in loads.values():
        load()
    loading.run_interleaved(loads, rounds)
    yield loading


def _among_many(
    registries: Mapping[str, Registry],
    logged: Mapping[str, Logged],
    count: int,
    rounds: int,
    resolutions: int,
) -> Iterator[Comparison]:
    """Promoting and finding one of `count` versions."""
    model = f"model-of-{count}"
    _say(f"{count} versions")
    versions = {}
    for variant, registry in registries.items():
        registry.create(model)
        registry.fill(model, max(0, count - 2))
        versions[variant] = [registry.register(model, logged[variant]) for _ in range(min(count, 2))]
    promoting = Comparison(f"promote, {_versions(count)}", "", {"versions": count})
    for number in range(rounds + 1):
        for variant in list(registries)[:: -1 if number % 2 else 1]:
            registry, mine = registries[variant], versions[variant]
            if number and count == 1:
                registry.make_promotable(model, mine[0])
            promote = partial(registry.promote, model, mine[number % len(mine)])
            if number:
                promoting.times[variant].measure(promote)
            else:
                promote()  # the first time opens connections
    yield promoting
    for variant, registry in registries.items():
        registry.settle(model, versions[variant][rounds % len(versions[variant])])
    resolving = Comparison(f"resolve `models:/…@production`, {_versions(count)}", "", {"versions": count})
    for number in range(resolutions // _IN_A_ROW):
        for variant in list(registries)[:: -1 if number % 2 else 1]:
            for _ in range(_IN_A_ROW):
                resolving.times[variant].measure(partial(registries[variant].resolve, model))
    yield resolving


def _record(comparison: Comparison) -> dict[str, Any]:
    """The comparison's record, with the 99th percentile."""
    record = comparison.record()
    for variant, times in comparison.times.items():
        runs = times.runs if len(times.runs) > 1 else times.runs * 2
        record["seconds"][variant]["p99"] = round(
            statistics.quantiles(runs, n=100, method="inclusive")[98], 5
        )
    record["ratios"]["ours to stock"] = round(
        paired_ratio(comparison.times[OURS], comparison.times[STOCK]), 3
    )
    return record


def _bytes(size: int) -> str:
    return f"{size // _MIB} MiB" if size >= _MIB else f"{size // 1000} kB"


def _versions(count: int) -> str:
    return f"{count:,} version{'s' if count > 1 else ''}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f"}
_NAME = "registry"
_INTRO = """# The model registry

MLflow's own registry and ours in the same run, in turns: the same application with one worker and with
workspaces, a database of its own each on the same server, and the same S3 store.
Times are a client's.

Both do not do the same work. When stock MLflow registers a version it writes a row that points at the run's
files, and it promotes without a look at them, leaving the previous version where it is. Ours copies them
inside S3, reads every copy to check and to hash it; at a promotion, which archives the previous version, it
lists them and hashes them again where that shows a write. MLflow's client fetches a stock server's files past
it, from S3 by addresses that the server has signed. Ours pass through the server, which sends none whose
SHA-256 is not the manifest's.
"""


def write_report(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `registry.md` and `registry.svg`."""
    first = records[0]
    machine = first["machine"]
    versions = {what: version for record in records for what, version in record["versions"].items()}
    text = [
        _INTRO,
        (
            f"Made by `{first['command']}` on {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
            f"{machine['system']}; "
            f"{', '.join(f'{what} {version}' for what, version in versions.items())}. "
            f"Code {first['commit']}, {first['measured_at']}.\n"
        ),
        "![Milliseconds by stock MLflow and by ours](registry.svg)\n",
        "| database | | stock p50 | p99 | ours p50 | p99 | ours / stock |",
        "|---|---|" + "---:|" * 5,
        *(_row(record) for record in records),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.md").write_text("\n".join(text) + "\n")
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{_NAME}.svg", records)


def _row(record: dict[str, Any]) -> str:
    times = [
        format_time(record["seconds"][variant][which])
        for variant in (STOCK, OURS)
        for which in ("median", "p99")
    ]
    ratio = f"**{record['ratios']['ours to stock']:.3g}**"
    return f"| {' | '.join([record['server'], record['work'], *times, ratio])} |"


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.6 * len(records)), layout="constrained")
    axes = figure.subplots()
    for position, record in enumerate(reversed(records)):
        for offset, (variant, colour) in zip((0.2, -0.2), _COLOURS.items(), strict=True):
            times = record["seconds"][variant]
            middle, late = times["median"] * 1000, times["p99"] * 1000
            axes.barh(position + offset, middle, 0.38, color=colour)
            axes.plot([middle, late], [position + offset] * 2, color="#999999", linewidth=1)
            axes.plot(late, position + offset, marker="|", color="#999999")
            axes.annotate(
                format_time(times["median"]), (late, position + offset), (4, -3), textcoords="offset points"
            )
    names = [f"{record['work'].replace('`', '')}, {record['server']}" for record in reversed(records)]
    axes.set_yticks(range(len(records)), names)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log scale): median, and the line ends at the 99th percentile")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    save(figure, path)


if __name__ == "__main__":
    main()
