"""CPU of each common command: what its imports and its work cost, with bytecode on disk and without.

    python -m benchmarks.start_up [--small] [--runs N] [--state FOLDER] [--baseline] [--only TEXT]

Runs the demo on servers of its own, or uses those whose `AI_HUB_STATE_DIR` is `--state`, where it has run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from ai_hub.dev.mlflow_server import arguments
from benchmarks import measure
from benchmarks.servers import clean_up_when_terminated, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BENCHMARK: Final = "start-up"
_BIN: Final = Path(sys.executable).parent
_TENANT: Final = ("--tenant", "uk-home")
_MODEL: Final = "demand-forecast-gas"
_MOVE: Final = (
    "ai-hub",
    "promote",
    _MODEL,
    *_TENANT,
    "--reason",
    "measured again",
    "--version",
    "1",
    "--stage",
)
_READY_S: Final = 120
_PACKAGES: Final = ("feast", "mlflow", "lightgbm", "pandas")


@dataclass(frozen=True)
class Command:
    """A command line; `before` are those that make it possible again, `ready` is where a server answers."""

    name: str
    line: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    ready: str | None = None
    statuses: tuple[int, ...] = (0,)


def commands(state: Path, folder: Path) -> list[Command]:
    """The measured commands; `folder` is for the files of servers."""
    readings = state / "demo-data" / "uk-home-gas.csv"
    sample = folder / "readings.csv"
    sample.write_text("".join(readings.read_text().splitlines(keepends=True)[:25]))
    service, registry = free_port(), free_port()
    database = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow = arguments(host="127.0.0.1", port=registry, workers=1, bucket="ml-models", login=False)
    mlflow += [f"--backend-store-uri={database}", f"--registry-store-uri=lifecycle+{database}"]
    back = ((*_MOVE, "archived"), (*_MOVE, "staging"))
    return [
        Command("ai-hub --help", ("ai-hub", "--help")),
        Command("ai-hub migrate, nothing new", ("ai-hub", "migrate")),
        Command(
            "ai-hub ingest readings, a day",
            ("ai-hub", "ingest", "readings", str(sample), *_TENANT, "--asset", "gas", "--unit", "kWh"),
        ),
        Command("ai-hub refresh, nothing new", ("ai-hub", "refresh")),
        Command("ai-hub materialize", ("ai-hub", "materialize")),
        Command("ai-hub freshness", ("ai-hub", "freshness")),
        # 1: the hour has ended since the demo, and no newer one has its readings
        Command("ai-hub predict", ("ai-hub", "predict", *_TENANT, "--model", _MODEL), statuses=(0, 1)),
        Command("ai-hub models", ("ai-hub", "models", *_TENANT)),
        Command(
            "ai-hub gates",
            ("ai-hub", "gates", _MODEL, *_TENANT, "--version", "1", "--reason", "measured again"),
            back,
        ),
        Command("ai-hub promote", (*_MOVE, "production"), back),
        Command("ai-hub history", ("ai-hub", "history", _MODEL, *_TENANT)),
        Command("ai-hub tenants list", ("ai-hub", "tenants", "list")),
        Command("ai-hub keys list", ("ai-hub", "keys", "list")),
        Command("ai-hub worker --once", ("ai-hub", "worker", "--once")),
        Command(
            "ai-hub serve, until ready",
            ("ai-hub", "serve", "--port", str(service), "--no-export-worker"),
            ready=f"http://127.0.0.1:{service}/health/ready",
        ),
        Command("feast --help", ("feast", "--help")),
        Command("feast apply", ("feast", "apply")),
        Command("feast feature-services list", ("feast", "feature-services", "list")),
        Command("mlflow experiments search", ("mlflow", "experiments", "search")),
        Command(
            "mlflow server, until ready", ("mlflow", *mlflow), ready=f"http://127.0.0.1:{registry}/health"
        ),
        *(
            Command(f"import {module}", ("python", "-c", f"import {module}"))
            for module in ("ai_hub.client", "lightgbm", "mlflow", "feast")
        ),
    ]


def main() -> None:
    """Measure and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__)
    parser.add_argument("--small", action="store_true", help="one run of each: shows that it works")
    parser.add_argument("--runs", type=int, default=5, help="how often each is run")
    parser.add_argument("--state", type=Path, help="AI_HUB_STATE_DIR of servers on which the demo has run")
    parser.add_argument("--baseline", action="store_true", help="keep as what later runs are compared with")
    parser.add_argument("--only", default="", help="only commands that match; others keep their numbers")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    clean_up_when_terminated()
    runs = 1 if arguments.small else arguments.runs
    with _demo(arguments.state) as state, tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as scratch:
        environment = _environment(state)
        measured: dict[str, dict[str, float]] = {}
        every = commands(state, Path(scratch))
        for command in every:
            if re.search(arguments.only, command.name):
                measured[command.name] = _measure(
                    command, environment, Path(scratch), runs, small=arguments.small
                )
                print(f"{command.name:40} {measured[command.name]}", flush=True)
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    work = "baseline" if arguments.baseline else "now"
    earlier = [
        record
        for record in measure.select(measure.load(folder), BENCHMARK)
        if arguments.only and record["work"] == work
    ]
    cpu_s = {**(earlier[0]["cpu_s"] if earlier else {}), **measured}
    record = {
        "benchmark": BENCHMARK,
        "server": "embedded",
        "work": work,
        "command": "python -m benchmarks.start_up",
        "runs": runs,
        "cpu_s": {command.name: cpu_s[command.name] for command in every if command.name in cpu_s},
        "only": arguments.only,
        "others": earlier and {name: earlier[0][name] for name in ("commit", "measured_at", "cpu_s")},
        "versions": {name: version(name) for name in _PACKAGES} | {"python": sys.version.split()[0]},
        **measure.circumstances(),
    }
    records = measure.select(measure.store(folder, [record]), BENCHMARK)
    (folder / "start-up.md").write_text(_report({record["work"]: record for record in records}))
    print(f"written to {folder}")


@contextmanager
def _demo(state: Path | None) -> Iterator[Path]:
    """State folder of servers on which the demo has run."""
    if state is not None:
        yield state.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as folder:
        own = Path(folder) / "state"
        environment = _environment(own)
        try:
            _run(("ai-hub", "demo"), environment)
            yield own
        finally:
            _run(("ai-hub", "down", "--purge"), environment)


def _environment(state: Path) -> dict[str, str]:
    """The variables of a shell in which `eval "$(ai-hub env)"` was run, if servers run."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    plain |= {"AI_HUB_STATE_DIR": str(state), "MLFLOW_DISABLE_TELEMETRY": "true"}
    if not (state / "stack.json").is_file():
        return plain
    # the command, not `Settings`: it derives what `feast` and `mlflow` read
    text = subprocess.run(
        [_BIN / "ai-hub", "env", "--json"], check=True, capture_output=True, text=True, env=plain
    ).stdout
    return plain | json.loads(text)


def _measure(
    command: Command, environment: Mapping[str, str], scratch: Path, runs: int, *, small: bool
) -> dict[str, float]:
    """CPU seconds of the fastest of `runs` with bytecode, after one that makes it, and of one without."""
    nothing = scratch / "no-bytecode"
    compiling = {**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(nothing)}
    runs_s = [_once(command, environment) for _ in range(runs + 1)]
    fastest = {"with": round(min(runs_s[1:]), 2)}
    return fastest if small else fastest | {"without": round(_once(command, compiling), 2)}


def _once(command: Command, environment: Mapping[str, str]) -> float:
    for line in command.before:
        _run(line, environment)
    return (
        _until_ready(command, environment)
        if command.ready
        else _run(command.line, environment, command.statuses)
    )


def _run(line: Sequence[str], environment: Mapping[str, str], statuses: tuple[int, ...] = (0,)) -> float:
    """CPU seconds of a program and those it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        [str(_BIN / line[0]), *line[1:]],
        check=False,
        capture_output=True,
        text=True,
        env=dict(environment),
        cwd=measure.ROOT / "feature_repo" if line[0] == "feast" else measure.ROOT,
    )
    if process.returncode not in statuses:
        raise RuntimeError(f"{' '.join(line)}: {process.stderr or process.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def _until_ready(command: Command, environment: Mapping[str, str]) -> float:
    """CPU seconds of a server and its workers until it answers well."""
    program = subprocess.Popen(
        [str(_BIN / command.line[0]), *command.line[1:]],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _READY_S
        while not _answers(str(command.ready)):
            if program.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command.line)} did not become ready")
            time.sleep(0.02)
        first = psutil.Process(program.pid)
        return sum(_cpu(process) for process in (first, *first.children(recursive=True)))
    finally:
        os.killpg(program.pid, signal.SIGTERM)
        program.wait()


def _cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  # our own
    except (urllib.error.URLError, OSError):
        return False
    return True


_INTRO: Final = """\
# Start-up

CPU seconds (user and system, of all its processes) of each command on the servers and data of the demo: the
fastest of {runs} with bytecode on disk, and one that compiles every module it imports. Servers are
measured from their start to their first good answer. "Before" is commit {before}.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}, with other work on the machine; {versions}. Code
{commit}, {measured_at}.
"""


def _report(records: Mapping[str, dict[str, Any]]) -> str:
    now = records.get("now") or records["baseline"]
    base = records.get("baseline")
    intro = _INTRO.format(
        runs=now["runs"], before=base["commit"] if base else "-", **measure.description(now)
    )
    if others := now.get("others"):
        again = [name for name in now["cpu_s"] if re.search(now["only"], name) and name in others["cpu_s"]]
        took = ", ".join(f"`{name}` {others['cpu_s'][name]['with']:.2f}" for name in again)
        intro += (
            f"\nOnly the commands that match `{now['only']}` are of this run. The others are of code "
            f"{others['commit']}, {others['measured_at']:.10}, when it took of these: {took}.\n"
        )
    lines = [intro, "| command | before | now | without bytecode |", "|---|---:|---:|---:|"]
    for name, cpu_s in now["cpu_s"].items():
        old = base["cpu_s"].get(name) if base else None
        before = f"{old['with']:.2f}" if old else ""
        without = f"{cpu_s['without']:.2f}" if "without" in cpu_s else ""
        lines.append(f"| `{name}` | {before} | **{cpu_s['with']:.2f}** | {without} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
