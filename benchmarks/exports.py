"""Exports of feature rows to Parquet: the worker's time and memory beside a binary COPY of the same rows.

    python -m benchmarks.exports [--small] [--server embedded|native] [--output FOLDER]

Four years of features are computed first, by `ai-hub refresh`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from ai_hub.db import connect
from ai_hub.exports import service
from ai_hub.exports.export import Request, find_export
from ai_hub.settings import Settings
from benchmarks import measure, servers
from benchmarks.comparison import FLOOR, OURS
from benchmarks.history import HOUR, TENANT, this_hour
from benchmarks.measure import Times, format_time, paired_ratio
from benchmarks.servers import valkey
from benchmarks.service_site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai_hub.exports.export import Export


BENCHMARK = "exports"
FEATURE_SET = "forecast_advanced"
_COLUMNS = (
    *("event_timestamp", "tenant_id", "asset_id"),
    *("hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend"),
    *("historical_avg_24h", "historical_std_24h", "lag_1h", "lag_24h", "lag_168h"),
    *("temperature", "humidity", "solar_irradiance", "created_timestamp"),
)
_SAMPLE_S = 0.02
_BUCKET = "exports"


@dataclass(frozen=True)
class Size:
    """Size of the exports; fixed, so that runs can be compared."""

    assets: int
    #: of the shorter window; the longer one is four times as long
    days: int
    turns: int


FULL = Size(assets=100, days=365, turns=3)
SMALL = Size(assets=20, days=15, turns=1)


@dataclass(frozen=True)
class Window:
    """Range of hours to export."""

    name: str
    start: datetime
    end: datetime


def main() -> None:
    """Measure and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--small", action="store_true", help="few rows: shows that it works, in a minute")
    parser.add_argument("--server", choices=servers.available(), action="append", help="just this one")
    parser.add_argument("--dsn", help="a database that an earlier run has filled, for more runs")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    records = []
    # a year of the embedded server's features takes ten minutes to compute
    for server in arguments.server or servers.available()[-1:]:
        with ExitStack() as stack:
            dsn = arguments.dsn or stack.enter_context(servers.databases(server, (BENCHMARK,)))[BENCHMARK].dsn
            keys = stack.enter_context(valkey())
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="exports-"))
            s3 = stack.enter_context(servers.stack("s3"))[0]
            store = {name: value for name, value in s3.items() if name.startswith("MINIO_")}
            url = f"redis://127.0.0.1:{keys.port}/0"
            site = Site(Path(name), {"TIMESCALE_DSN": dsn, "REDIS_URL": url, **store})
            if not arguments.dsn:
                _say(f"{server}: readings and features")
                site.fill(size.assets, 4 * size.days + 1, (TENANT,))
            site.apply()
            _make_bucket(site)
            common = {
                "benchmark": BENCHMARK,
                "server": server,
                "command": "make bench SMALL=1" if arguments.small else "make bench",
                "versions": servers.versions(dsn) | {"pyarrow": pa.__version__},
            } | measure.circumstances()
            records += [common | record for record in _measure(site, size)]
    write_report(folder, measure.select(measure.store(folder, records), BENCHMARK))
    print(f"written to {folder}")


def _measure(site: Site, size: Size) -> Iterator[dict[str, Any]]:
    end = this_hour()
    day = timedelta(days=1)
    short = Window(f"{size.days} days", end - size.days * day, end)
    long = Window(f"{4 * size.days} days", end - 4 * size.days * day, end)
    to_s3 = Site(site.folder, {**site.variables, "EXPORT_STORAGE_PATH": f"s3://{_BUCKET}/benchmark"})
    yield _compare(site, short, size, size.turns, "a folder")
    yield _compare(to_s3, short, size, 1, "S3")
    yield _compare(site, long, size, 1, "a folder")


def _compare(site: Site, window: Window, size: Size, turns: int, where: str) -> dict[str, Any]:
    times = {variant: Times() for variant in (OURS, FLOOR)}
    processes, peaks = [], []
    sizes: list[int] = []
    job: Export | None = None
    for turn in range(turns):
        for variant in list(times)[:: -1 if turn % 2 else 1]:
            _say(f"{window.name} to {where}: {variant}")
            if variant == FLOOR:
                times[variant].measure(lambda: sizes.append(_copy(site, window)))
                continue
            job, seconds, peak = _export(site, window)
            processes.append(seconds)
            peaks.append(peak)
            if job.started_at is None or job.completed_at is None:
                raise RuntimeError(f"the export {job.status}: {job.error}")
            times[OURS].runs.append((job.completed_at - job.started_at).total_seconds())
    rows = size.assets * int((window.end - window.start) / HOUR)
    if job is None or job.row_count != rows or not _is_complete(job, where):
        raise RuntimeError(f"{rows:,} rows expected: {job}")
    return {
        "work": f"export of {rows:,} rows to {where}",
        "sizes": {"rows": rows, "file_bytes": job.file_size_bytes, "copied_bytes": sizes[-1]},
        "window": window.name,
        "where": where,
        "seconds": {variant: variant_times.record() for variant, variant_times in times.items()},
        "process_seconds": round(sorted(processes)[len(processes) // 2], 2),
        "ratios": {"ours to floor": round(paired_ratio(times[OURS], times[FLOOR]), 3)},
        "peak_mib": {"worker": max(peaks)},
    }


def _export(site: Site, window: Window) -> tuple[Export, float, int]:
    """A finished job, seconds of the worker's process, and its peak memory in MiB."""
    settings = Settings(**{name.lower(): value for name, value in site.environment.items()})
    request = Request(TENANT, FEATURE_SET, window.start, window.end, None, None, None)
    job = service.submit(settings, request)
    program = str(Path(sys.executable).with_name("ai-hub"))
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [program, "worker", "--once"], env=site.environment, cwd=site.folder, stdin=subprocess.DEVNULL
    ) as worker:
        while worker.poll() is None:
            peak = max(peak, _peak_kib(worker.pid))
            time.sleep(_SAMPLE_S)
    seconds = time.perf_counter() - started
    with connect(site.variables["TIMESCALE_DSN"]) as connection:
        return find_export(connection, TENANT, job.export_id), seconds, peak >> 10


def _peak_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


def _query(window: Window) -> sql.Composed:
    conditions = sql.SQL(
        "tenant_id = {tenant} AND event_timestamp >= {start} AND event_timestamp < {end}"
    ).format(tenant=TENANT, start=window.start, end=window.end)
    return sql.SQL("SELECT {columns} FROM forecast_advanced_features WHERE {conditions}").format(
        columns=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), conditions=conditions
    )


def _copy(site: Site, window: Window) -> int:
    """Bytes of the rows by binary COPY, which are discarded."""
    size = 0
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(_query(window))
    with (
        connect(site.variables["TIMESCALE_DSN"]) as connection,
        connection.cursor().copy(statement) as chunks,
    ):
        for chunk in chunks:
            size += len(chunk)
    return size


def _is_complete(job: Export, where: str) -> bool:
    """Whether the file has the size, digest and row count of the job."""
    if where == "S3":
        return True
    path = Path(str(job.storage_path).removeprefix("file://"))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        digest == job.sha256
        and path.stat().st_size == job.file_size_bytes
        and pq.read_metadata(path).num_rows == job.row_count
    )


def _make_bucket(site: Site) -> None:
    import boto3  # noqa: PLC0415  # a second of imports

    boto3.client(
        "s3",
        endpoint_url=site.variables["MINIO_ENDPOINT_URL"],
        aws_access_key_id=site.variables["MINIO_ACCESS_KEY"],
        aws_secret_access_key=site.variables["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    ).create_bucket(Bucket=_BUCKET)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_INTRO = """# Exports

Rows of `forecast_advanced` with their keys and times, written to Parquet by the process that `ai-hub serve`
keeps for exports (zstd, sorted, with SHA-256), beside a binary
`COPY (SELECT the same columns FROM forecast_advanced_features WHERE …) TO STDOUT` of the same rows that is
thrown away as it arrives. A job's time is from the moment the worker takes it up until the file is in place;
memory is the peak of the worker's resident set, its libraries included.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}; {versions}.
Code {commit}, {measured_at}.

"""
_TITLES = (
    *("server", "window", "to", "rows", "export", "rows/s"),
    *("COPY", "export / COPY", "worker's peak", "file", "COPY's bytes"),
)
_MIB = 1 << 20


def write_report(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `exports.md`."""
    records = sorted(records, key=lambda record: (record["server"], record["sizes"]["rows"]), reverse=True)
    first = records[0]
    text = _INTRO.format(**measure.description(first))
    folder.mkdir(parents=True, exist_ok=True)
    text += f"| {' | '.join(_TITLES)} |\n|---|---|---|{'---:|' * (len(_TITLES) - 3)}\n"
    (folder / "exports.md").write_text(text + "".join(_row(record) for record in records))


def _row(record: dict[str, Any]) -> str:
    sizes, seconds = record["sizes"], record["seconds"]
    ours = seconds[OURS]["median"]
    cells = (
        record["server"],
        record["window"],
        record["where"],
        f"{sizes['rows']:,}",
        format_time(ours),
        f"{sizes['rows'] / ours:,.0f}",
        format_time(seconds[FLOOR]["median"]),
        f"**{record['ratios']['ours to floor']:.2f}**",
        f"{record['peak_mib']['worker']} MiB",
        f"{sizes['file_bytes'] / _MIB:.1f} MiB",
        f"{sizes['copied_bytes'] / _MIB:.1f} MiB",
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
