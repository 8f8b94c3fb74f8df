"""Time and memory of `ai-hub backfill` for a year of 100 meters: undisturbed, and killed and resumed.

    python -m benchmarks.backfill [--small] [--server embedded|native] [--output FOLDER]

Runs the command itself in a process of its own, kills it once while it stores readings and once while it
computes features, and compares every feature row with those of the undisturbed run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from psycopg import sql

from ai_hub.db import connect
from benchmarks import history, measure, servers
from benchmarks.history import HOUR, History, this_hour
from benchmarks.measure import PeakMemory, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.servers import Database

BENCHMARK = "backfill"
FILES = 10
UNDISTURBED, KILLED = "undisturbed", "killed twice"
_VALUES = (
    "historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,"
    " lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance"
)
#: One number for all rows, whatever their order; as text, so that every bit counts.
_FINGERPRINT = sql.SQL(
    "SELECT count(*), sum(hashtextextended(ROW (asset_id, event_timestamp, {values})::text, 0)::numeric)"
    " FROM ai_features WHERE tenant_id = %s AND event_timestamp < %s"
).format(values=sql.SQL(_VALUES))


@dataclass(frozen=True)
class Size:
    """Size of the backfill; fixed, so that runs can be compared."""

    assets: int
    days: int


FULL = Size(assets=100, days=365)
SMALL = Size(assets=10, days=60)


def main() -> None:
    """Measure and write results and table."""
    arguments = servers.arguments("backfill", __doc__)
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    servers.clean_up_when_terminated()
    command = "make bench SMALL=1" if arguments.small else "make bench"
    series = History(size.assets, size.days, this_hour() - HOUR)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as name:
        files = _write_files(series, Path(name))
        for server in arguments.server or servers.available():
            with servers.databases(server, (UNDISTURBED, KILLED)) as databases:
                record = _measure(databases, series, files)
                versions = servers.versions(databases[KILLED].dsn)
            records.append(
                {"benchmark": BENCHMARK, "server": server, **record, "seed": history.SEED, "command": command}
                | {"versions": versions}
                | measure.circumstances()
            )
    _write(folder, measure.select(measure.store(folder, records), BENCHMARK))
    print(f"written to {folder}")


def _write_files(series: History, folder: Path) -> list[Path]:
    """Parquet files of some meters each, like exports of a meter data system."""
    rows = series.rows()
    columns = {"asset_id": rows.assets, "value": rows.values}  # noqa: PD011  # not a frame's
    frame = pd.DataFrame(columns).assign(timestamp=pd.to_datetime(rows.seconds, unit="s", utc=True))
    paths = []
    for number, names in enumerate(series.names[start::FILES] for start in range(FILES)):
        path = folder / f"meters-{number:02}.parquet"
        frame[frame["asset_id"].isin(names)].to_parquet(path)
        paths.append(path)
    return paths


def _measure(databases: dict[str, Database], series: History, files: list[Path]) -> dict[str, Any]:
    readings = series.assets * series.days * 24
    undisturbed, killed = databases[UNDISTURBED], databases[KILLED]
    for database in databases.values():
        with connect(database.dsn, autocommit=True) as connection:
            series.add_assets(connection)
    output: dict[str, Any] = {}
    with PeakMemory(undisturbed.server_pid) as peak:
        seconds = timed(lambda: output.update(_run(undisturbed, files)))
    memory = {"client": output["peak_memory_mb"]} | {
        who: mib for who, mib in peak.record().items() if who == "server"
    }

    stored_at_kill = _kill(killed, files, "timeseries_data", 0.4 * readings)
    computed_at_kill = _kill(killed, files, "ai_features_stored", 0.5 * readings)
    resumed: dict[str, Any] = {}
    resume = timed(lambda: resumed.update(_run(killed, files)))
    hour = this_hour()
    prints = {name: _fingerprint(database, hour) for name, database in databases.items()}
    return {
        "work": f"backfill, {readings:,} readings",
        "sizes": {
            "assets": series.assets,
            "readings": readings,
            "files": len(files),
            "feature rows": output["feature_rows"],
        },
        "seconds": {
            UNDISTURBED: {"median": round(seconds, 1), "runs": 1},
            "resumed after two kills": {"median": round(resume, 1), "runs": 1},
        },
        "ratios": {"readings a second, files to features": round(readings / seconds)},
        "peak_mib": memory,
        "kills": {
            "readings stored at the first": stored_at_kill,
            "feature rows stored at the second": computed_at_kill,
            "files the last run skipped": len(resumed["skipped"]),
            "feature rows left for the last run": resumed["feature_rows"],
            "rows compared": prints[UNDISTURBED][0],
            "same rows as undisturbed": prints[UNDISTURBED] == prints[KILLED],
        },
    }


_TEXT = """\
# What a backfill needs

Made by `{command}` from [results.json](results.json): `ai-hub backfill` with {files} Parquet files of
{readings:,} hourly readings of {assets} meters, and the weather of one station, into an empty database. In a
second database the same command is killed (SIGKILL) while it stores readings, killed again while it computes
features, and run to its end; then every feature row of both is compared, to the last bit.

| | {titles} |
|---|{lines}|
"""


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `backfill.md`."""
    first = records[0]
    rows: dict[str, list[str]] = {}
    for record in records:
        seconds, kills, memory = record["seconds"], record["kills"], record["peak_mib"]
        software = record["versions"]
        cells = {
            "PostgreSQL / TimescaleDB": f"{software['postgresql']} / {software['timescaledb']}",
            "undisturbed": f"{seconds[UNDISTURBED]['median']:,.0f} s",
            "readings/s, files to features": f"{record['ratios']['readings a second, files to features']:,}",
            "peak memory, command": f"{memory['client']:,} MiB",
            "peak memory, server": f"{memory['server']:,} MiB" if "server" in memory else "",
            "readings stored at the first kill": f"{kills['readings stored at the first']:,}",
            "feature rows stored at the second kill": f"{kills['feature rows stored at the second']:,}",
            "last run: files skipped": f"{kills['files the last run skipped']} of {record['sizes']['files']}",
            "last run: feature rows computed": f"{kills['feature rows left for the last run']:,}",
            "last run": f"{seconds['resumed after two kills']['median']:,.0f} s",
            "feature rows compared": f"{kills['rows compared']:,}",
            "same as undisturbed": "yes" if kills["same rows as undisturbed"] else "NO",
            "measured": f"{record['measured_at']}, code {record['commit']}",
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    text = _TEXT.format(
        command=first["command"],
        files=first["sizes"]["files"],
        readings=first["sizes"]["readings"],
        assets=first["sizes"]["assets"],
        titles=" | ".join(f"{record['server']}" for record in records),
        lines="|".join("---:" for _ in records),
    )
    text += "".join(f"| {title} | {' | '.join(cells)} |\n" for title, cells in rows.items())
    (folder / "backfill.md").write_text(text)


@contextmanager
def _backfill(database: Database, files: list[Path]) -> Iterator[subprocess.Popen[str]]:
    program = str(Path(sys.executable).with_name("ai-hub"))
    with subprocess.Popen(
        [program, "backfill", *map(str, files), "--tenant", history.TENANT, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=files[0].parent,
        env=os.environ | {"TIMESCALE_DSN": database.dsn},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _run(database: Database, files: list[Path]) -> dict[str, Any]:
    with _backfill(database, files) as child:
        out, err = child.communicate()
    if child.returncode:
        raise RuntimeError(err)
    answer: dict[str, Any] = json.loads(out)
    return answer


def _kill(database: Database, files: list[Path], table: str, rows: float) -> int:
    """Start a backfill, kill it once `table` has this many rows, and return the number it had after that."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s").format(sql.Identifier(table))
    with connect(database.dsn, autocommit=True) as connection:

        def count() -> int:
            (number,) = connection.execute(query, [history.TENANT]).fetchall()[0]
            return int(number)

        with _backfill(database, files) as child:
            _wait(lambda: count() >= rows, child)
        return count()


def _wait(ready: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    while not ready():
        if child.poll() is not None:
            raise RuntimeError("the backfill ended before it could be killed")
        time.sleep(0.2)


def _fingerprint(database: Database, before: Any) -> tuple[int, int]:
    with connect(database.dsn) as connection:
        number, total = connection.execute(_FINGERPRINT, [history.TENANT, before]).fetchall()[0]
        return int(number), int(total)


if __name__ == "__main__":
    main()
