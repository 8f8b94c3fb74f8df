"""Forecasts of 100 meters for two days in hours and quarter hours: training, one issue, one answer over HTTP.

    [AI_HUB_BENCH_DSN=postgresql://…] python -m benchmarks.day_ahead [--small] [--output FOLDER]

Meters have quarter-hour readings; models are trained on a quarter of a year and on all of it. Training is
`ai-hub train`, an issue `ai-hub forecast run`, both from the start of the process to its end, with CPU time
and peak memory of that process; and an issue as `--follow` makes it, in a process that has loaded the model.
One answer is `POST /ai/forecast` for one meter, sent at a rate; before, the first one loads the model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.forecasting.production import Issuer
from ai_hub.settings import Settings
from benchmarks import history, measure, mlflow_servers, servers, service_load, service_site
from benchmarks.history import HOUR, TENANT, History, this_hour
from benchmarks.servers import valkey
from benchmarks.service_load import Stream
from benchmarks.service_site import Service, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCHMARK: Final = "day_ahead"
#: Beside the repository's own views.
VIEW: Final = """
from datetime import timedelta

from entities import asset, tenant
from feast import FeatureService
from views.day_ahead import OF_TARGETS, of_issue

from feast_plugins.windows import declared_view

QUARTER = timedelta(minutes=15)
quarter_ahead_features = declared_view(
    name="quarter_ahead_features",
    entities=[tenant, asset],
    features=of_issue(QUARTER) | OF_TARGETS,
    horizon=timedelta(hours=48),
    step=QUARTER,
)
quarter_ahead = FeatureService(name="quarter_ahead", features=[quarter_ahead_features])
"""


@dataclass(frozen=True)
class Size:
    """Size of the data; fixed, so that runs can be compared."""

    assets: int
    weeks: int
    #: runs of each issue
    issues: int
    #: requests a second, and for how long
    rate: int
    seconds: int


FULL = Size(100, 52, issues=5, rate=20, seconds=30)
SMALL = Size(5, 12, issues=2, rate=5, seconds=3)
#: Name of the model, its service, and minutes of a step.
KINDS: Final = (("hours", "day_ahead", 60), ("quarters", "quarter_ahead", 15))


def main() -> None:
    """Measure and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.day_ahead", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few meters: shows that it works")
    parser.add_argument("--server", choices=servers.available(), help="where TimescaleDB runs")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    server = arguments.server or servers.available()[-1]
    with (
        servers.databases(server, (BENCHMARK,)) as databases,
        valkey() as keys,
        servers.stack("s3") as (s3, _),
        tempfile.TemporaryDirectory(prefix="day-ahead-") as name,
        mlflow_servers.running(f"sqlite:///{name}/mlflow.db", s3, Path(name)) as registry,
    ):
        dsn = databases[BENCHMARK].dsn
        names = ("MINIO_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MODEL_STORAGE_BUCKET")
        variables = {
            "TIMESCALE_DSN": dsn,
            "REDIS_URL": f"redis://127.0.0.1:{keys.port}/0",
            "MLFLOW_TRACKING_URI": registry.url,
            **{each: s3[each] for each in names},
        }
        record = {
            "benchmark": BENCHMARK,
            "server": server,
            "seed": history.SEED,
            "work": "forecasts of two days",
            "command": f"python -m benchmarks.day_ahead{' --small' if arguments.small else ''}",
            "sizes": {"assets": size.assets, "weeks": size.weeks},
            "versions": servers.versions(dsn),
            "load": round(os.getloadavg()[2], 1),
            "found": _measure(Site(Path(name), variables), size),
        } | measure.circumstances()
    _write(folder, measure.select(measure.store(folder, [record]), BENCHMARK))
    _say(f"written to {folder}")


def _measure(site: Site, size: Size) -> dict[str, Any]:
    _say("readings and features")
    _fill(site, size)
    found: dict[str, Any] = {}
    for model, service, _ in KINDS:
        for weeks in dict.fromkeys((size.weeks // 4, size.weeks - 1)):
            _say(f"training of {model}, {weeks} weeks")
            options = ("--tenant", TENANT, "--service", service, "--horizon", "48h", "--model", model)
            found[f"training, {model}, {weeks} weeks"] = _process(
                site, "train", *options, "--weeks", str(weeks)
            )
        site.run("ai-hub", "promote", model, "--tenant", TENANT, "--reason", "measured")
    site.materialize()
    for model, _, _ in KINDS:
        runs = [
            _process(site, "forecast", "run", "--tenant", TENANT, "--model", model)
            for _ in range(size.issues)
        ]
        found[f"one issue, {model}, {size.assets} meters"] = min(runs, key=lambda run: run["seconds"])
        found[f"the same, in a process that follows, {model}"] = _followed(site, model, size)
    with service_site.running(Service(site, {"AI_HUB_API_RATE_LIMIT_PER_S": "1000000"})) as service_process:
        key = site.key(TENANT)
        for model, _, minutes in KINDS:
            found[f"one answer, {model}"] = _answers(service_process, key, (model, minutes), size)
    return found


def _fill(site: Site, size: Size) -> None:
    series = History(size.assets, size.weeks * 7, this_hour() - HOUR, minutes=15)
    dsn = site.variables["TIMESCALE_DSN"]
    with connect(dsn, autocommit=True) as connection:
        connection.execute(servers.PAUSE_JOBS)
        series.add_assets(connection)
        history.write(connection, series.rows())
    site.run("ai-hub", "refresh")
    repository = site.folder / "feature_repo"
    shutil.copytree(paths.resource("feature_repo"), repository)
    (repository / "views" / "quarter_ahead.py").write_text(VIEW)
    variables = json.loads(site.run("ai-hub", "env", "--json"))
    Site(site.folder, {**site.variables, **variables}).run("feast", "-c", str(repository), "apply")
    site.run("ai-hub", "features", "backfill")
    with connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")


def _process(site: Site, *arguments: str) -> dict[str, float]:
    """What a command of `ai-hub` takes, from the start of its process to its end."""
    started = time.perf_counter()
    with (site.folder / "command.log").open("w+") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("ai-hub"), *arguments],
            stdout=log,
            stderr=log,
            env=site.environment,
            cwd=site.folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"ai-hub {' '.join(arguments)}: {log.read()}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss >> 10,
    }


def _followed(site: Site, model: str, size: Size) -> dict[str, float]:
    """What an issue takes where libraries and model are loaded; memory is that of this process."""
    before = dict(os.environ)
    os.environ.update(site.environment)
    try:
        issuer = Issuer(Settings(), [TENANT], [model])
        issuer.issue_now()
        runs = []
        for _ in range(size.issues):
            started, used = time.perf_counter(), time.process_time()
            issued = issuer.issue_now()
            if issued.errors:
                raise issued.errors[0]
            runs.append((time.perf_counter() - started, time.process_time() - used))
    finally:
        os.environ.clear()
        os.environ.update(before)
    seconds, cpu = min(runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "peak_mib": peak}


def _answers(service: Service, key: str, kind: tuple[str, int], size: Size) -> dict[str, float]:
    model, minutes = kind
    bodies = [
        json.dumps(
            {
                "tenant_id": TENANT,
                "asset_id": name,
                "model_name": model,
                "horizon_hours": 48,
                "interval_minutes": minutes,
            }
        )
        for name in History(size.assets, 1, this_hour()).names
    ]
    stream = Stream(
        *(model, "POST", "/ai/forecast", bodies),
        size.seconds,
        rate=size.rate,
        headers=({"x-api-key": key},),
    )
    started = time.perf_counter()
    first, answer = service.ask("POST", "/ai/forecast", json.loads(bodies[0]), key=key)
    first_ms = (time.perf_counter() - started) * 1000
    if first != HTTPStatus.OK:
        raise RuntimeError(f"{first}: {answer}")
    outcome = service_load.run(service.port, stream)[model]
    if set(outcome.statuses()) != {HTTPStatus.OK}:
        raise RuntimeError(f"{outcome.statuses()}: {outcome.samples}")
    return {
        "p50_ms": round(outcome.percentile(50) * 1000, 1),
        "p99_ms": round(outcome.percentile(99) * 1000, 1),
        "first_ms": round(first_ms, 1),
    }


def _say(text: str) -> None:
    print(text, flush=True)


_TEXT: Final = """\
# What forecasts cost

Made by `{command}` from [results.json](results.json): {assets} meters with {weeks} weeks of quarter-hour
readings and the weather of one station, forecast 48 hours ahead in hours (48 steps) and quarter hours (192
steps). Training is `ai-hub train` with its backtest, an issue `ai-hub forecast run` (the fastest of some),
both with the start of the process; memory is that of the process, without the database. In a process that
follows (`--follow`), libraries and model are loaded. One answer is `POST /ai/forecast` for one meter, at
{rate} requests a second, after a first one that loads the model.

{cpus} CPUs, {memory} GiB, {system}; {versions}. Load of the machine by other work before it began: {load}.
Code {commit}, {measured_at}.

| work | seconds | CPU s | peak memory, MiB |
|---|---:|---:|---:|
{rows}

| one meter over HTTP | p50, ms | p99, ms | the first, ms |
|---|---:|---:|---:|
{answers}
"""


def _write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `forecast-cost.md`."""
    record = records[-1]
    lines: dict[bool, list[str]] = {False: [], True: []}
    for work, numbers in record["found"].items():
        cells = " | ".join(f"{each:,}" for each in numbers.values())
        lines["p99_ms" in numbers].append(f"| {work} | {cells} |")
    text = _TEXT.format(
        **measure.description(record),
        **record["sizes"],
        rate=FULL.rate,
        load=record["load"],
        rows="\n".join(lines[False]),
        answers="\n".join(lines[True]),
    )
    (folder / "forecast-cost.md").write_text(text)


if __name__ == "__main__":
    main()
