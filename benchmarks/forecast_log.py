"""Rows a second into the forecast log, bytes a row, and what reads of it take.

    [AI_HUB_BENCH_DSN=postgresql://…] python -m benchmarks.forecast_log [--server native|embedded]

Day-ahead runs of 100 assets, 48 hours in quarter hours, four issues a day. Uses a database of its own.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from ai_hub.db import connect
from ai_hub.forecasting import log
from ai_hub.forecasting.log import Grid, Role, Run
from benchmarks import servers
from benchmarks.measure import Times

if TYPE_CHECKING:
    from typing import Any

    from psycopg import Connection

ASSETS, STEP, HORIZON = 100, timedelta(minutes=15), timedelta(hours=48)
LEADS = HORIZON // STEP
ISSUES = 40
TENANT = "bench"


def issue(number: int, start: datetime) -> tuple[Run, Grid]:
    """A run whose values have all bits in use."""
    issued_at = start + number * timedelta(hours=6)
    run = Run(
        TENANT,
        "day-ahead-electricity",
        1,
        "v1.0.0",
        "ab" * 32,
        Role.LIVE,
        issued_at=issued_at,
        known_at=issued_at,
        step=STEP,
        horizon=HORIZON,
        assets=tuple(f"meter-{asset:03}" for asset in range(ASSETS)),
    )
    drawn = np.random.default_rng(number)
    values = drawn.gamma(3, 1, (ASSETS, LEADS))
    width = drawn.gamma(2, 0.1, values.shape)
    return run, Grid(values, {0.1: values - width, 0.5: values, 0.9: values + width})


def bytes_a_row(connection: Connection[Any]) -> float:
    """Of the hypertable with indexes and columnstore."""
    row = connection.execute(
        "SELECT hypertable_size('forecasts') / count(*)::float8 FROM forecasts"
    ).fetchone()
    return float(row[0]) if row else 0.0


def main() -> None:
    """Measure, and print one line a result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", choices=servers.available(), default=servers.available()[-1])
    server = parser.parse_args().server
    start = (datetime.now(UTC) - timedelta(days=30)).replace(hour=0, minute=0, second=0, microsecond=0)
    with (
        servers.databases(server, ("log",)) as databases,
        connect(databases["log"].dsn, autocommit=True) as connection,
    ):
        written = Times()
        for number in range(ISSUES):
            run, grid = issue(number, start)
            written.measure(lambda run=run, grid=grid: log.write(connection, run, grid))  # type: ignore[misc]
        rows = ASSETS * LEADS
        connection.execute("ANALYZE forecasts")
        print(f"{server}: {rows * ISSUES:,} rows in {ISSUES} runs")
        print(f"written: {rows / written.median:,.0f} rows/s (median run {written.median:.3f} s)")
        _measure_reads(connection, run, start, "as rows")
        connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('forecasts') AS chunk")
        _measure_reads(connection, run, start, "in the columnstore")


def _measure_reads(connection: Connection[Any], run: Run, start: datetime, state: str) -> None:
    read, valid = Times(), Times()
    now, middle = datetime.now(UTC) + timedelta(hours=1), start + timedelta(days=5)
    day = {"start": middle, "end": middle + timedelta(days=1)}
    for _ in range(9):
        read.measure(lambda: log.read_rows(connection, run))
        valid.measure(lambda: log.valid_at(connection, TENANT, "meter-050", now, **day))
    print(
        f"{state}: {bytes_a_row(connection):.0f} bytes a row, a run read in {read.median * 1000:.0f} ms,"
        f" an asset's valid day in {valid.median * 1000:.1f} ms"
    )


if __name__ == "__main__":
    main()
