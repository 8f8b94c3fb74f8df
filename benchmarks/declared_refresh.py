"""Refreshing one new hour or quarter-hour of declared features, beside writing the same rows.

    python -m benchmarks.declared_refresh [--small] [--server embedded|native] [--output FOLDER]

A reading of each meter arrives for the newest step, `ai_hub.db.refresh.refresh` runs, and it is taken back.
The floor is one INSERT of as many rows into an empty table with the columns and indexes of the view's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
from feast.aggregation import Aggregation
from psycopg import sql

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from benchmarks import history, measure, servers
from benchmarks.declared import FEATURES, VIEW, apply, require_values
from benchmarks.history import HOUR, History
from benchmarks.measure import Times, format_time, timed
from feast_plugins.windows import DegreeHours, Difference, Lag, Ratio, SameHour
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from benchmarks.servers import Database

BENCHMARK = "declared refresh"
_QUARTER = timedelta(minutes=15)
_DAY = timedelta(days=1)
_TAKE_BACK = 'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = %s'


def _windows(step: timedelta) -> dict[str, Any]:
    return {
        f"{function}_{hours}h": Aggregation("value", function, timedelta(hours=hours), step)
        for hours in (3, 6, 12, 48, 72, 168)
        for function in ("mean", "std", "min", "max")
    }


_LAGS = (2, 3, 4, 5, 6, 12, 48, 72, 96, 120, 144, 336)
#: 60, as a forecaster may have them.
MANY: Mapping[str, Any] = {
    **FEATURES,
    **_windows(HOUR),
    **{f"lag_{hours}h": Lag("value", timedelta(hours=hours)) for hours in _LAGS},
    "mean_same_hour_7d": SameHour("value", "mean", days=7),
    "std_same_hour_7d": SameHour("value", "std", days=7),
    "heating_24h": DegreeHours(base=15, time_window=_DAY),
    "cooling_24h": DegreeHours(base=22, time_window=_DAY, direction="cooling"),
    "temperature_mean_24h": Aggregation("temperature", "mean", _DAY, HOUR),
    "temperature_max_24h": Aggregation("temperature", "max", _DAY, HOUR),
    "change_1h": Difference(Lag("value", HOUR), Lag("value", 2 * HOUR)),
    "change_24h": Difference(Lag("value", HOUR), Lag("value", 25 * HOUR)),
    "change_168h": Difference(Lag("value", HOUR), Lag("value", 169 * HOUR)),
    "to_mean_24h": Ratio(Lag("value", HOUR), Aggregation("value", "mean", _DAY, HOUR)),
    "to_max_168h": Ratio(Lag("value", HOUR), Aggregation("value", "max", 7 * _DAY, HOUR)),
}  # fmt: skip
#: The 13 features in quarter-hours, and the same time of seven days.
QUARTERS: Mapping[str, Any] = {
    name: Aggregation("value", of.function, _DAY, _QUARTER) if isinstance(of, Aggregation) else of
    for name, of in FEATURES.items()
} | {"lag_15m": Lag("value", _QUARTER), "mean_same_time_7d": SameHour("value", "mean", days=7)}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Meters with a history, and the views that are declared one after the other."""

    name: str
    assets: int
    days: int
    step: timedelta
    views: Mapping[str, Mapping[str, Any]]
    repetitions: int = 7
    #: too large for the embedded server
    is_fleet: bool = False


_BY_HOUR = {"13 features": FEATURES, "60 features": MANY}
FULL = (
    Case("100 meters, a month of hours", 100, 30, HOUR, _BY_HOUR),
    Case("100 meters, a year of hours", 100, 365, HOUR, _BY_HOUR),
    Case("100 meters, a year of quarter-hours", 100, 365, _QUARTER, {"15 features": QUARTERS}),
    Case("10,000 meters, 2 days of hours", 10_000, 2, HOUR, {"13 features": FEATURES}, 3, is_fleet=True),
)
SMALL = (
    Case("2 meters, 15 days of hours", 2, 15, HOUR, _BY_HOUR, 2),
    Case("2 meters, 15 days of quarter-hours", 2, 15, _QUARTER, {"15 features": QUARTERS}, 2),
)


@dataclass
class _Work:
    """Runs of one view: seconds, and the server's CPU time where it is on this machine."""

    refresh: Times = field(default_factory=Times)
    server_cpu: Times = field(default_factory=Times)
    insert: Times = field(default_factory=Times)
    floor: Times = field(default_factory=Times)
    rows: int = 0


class _ServerCpu:
    """CPU time of all processes of a server, also of sessions that have ended."""

    def __init__(self, pid: int | None) -> None:
        self._server = psutil.Process(pid) if pid is not None else None

    def seconds(self) -> float:
        """Seconds so far; 0 where the server is elsewhere."""
        if self._server is None:
            return 0.0
        processes = [self._server, *self._server.children(recursive=True)]
        times = [each.cpu_times() for each in processes if each.is_running()]
        ended = times[0].children_user + times[0].children_system
        return ended + sum(each.user + each.system for each in times)


def main() -> None:
    """Measure and write results and table."""
    arguments = servers.arguments("declared_refresh", __doc__)
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    servers.clean_up_when_terminated()
    records = []
    for server in arguments.server or servers.available():
        for case in SMALL if arguments.small else FULL:
            if case.is_fleet and server == "embedded":
                continue
            with servers.databases(server, (BENCHMARK,)) as databases:
                database = databases[BENCHMARK]
                print(f"{server}: {case.name}", flush=True)
                records.append(
                    {"benchmark": BENCHMARK, "server": server, "work": case.name}
                    | {"sizes": {"assets": case.assets, "days": case.days}, "seed": history.SEED}
                    | _record(_measure(case, database))
                    | {"command": "make bench SMALL=1" if arguments.small else "make bench"}
                    | {"versions": servers.versions(database.dsn)}
                    | measure.circumstances()
                )
    _write(folder, measure.select(measure.store(folder, records), BENCHMARK))
    print(f"written to {folder}")


def _measure(case: Case, database: Database) -> dict[str, _Work]:
    """Runs without a declared view, and with each of the case's."""
    works: dict[str, _Work] = {}
    views: dict[str, Mapping[str, Any]] = {"no declared view": {}, **case.views}
    minutes = case.step // timedelta(minutes=1)
    series = History(case.assets, case.days, history.this_hour() - 2 * HOUR, minutes)
    with connect(database.dsn, autocommit=True) as connection:
        series.add_assets(connection)
        history.write(connection, series.rows())
        refresh(dsn=database.dsn)
        for name, features in views.items():
            if features:
                apply(connection, BENCHMARK, features, case.step)
                if case.step == HOUR and not case.is_fleet:
                    declared.request_backfill(connection, VIEW)
                else:  # takes many minutes to compute
                    _fill(connection, case.step)
                refresh(dsn=database.dsn)
                require_values(connection)
            connection.execute("ANALYZE")
            work = works[name] = _Work()
            for number in range(case.repetitions):
                while not _repeat(connection, database, case, work, number):
                    pass
            if features:
                work.floor = _floor(connection, case)
    return works


def _fill(connection: psycopg.Connection, step: timedelta) -> None:
    """Rows of all steps so far, as if they had been computed."""
    names = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND NOT attisdropped"
            " AND atttypid = 'float8'::regtype ORDER BY attnum",
            [f"{VIEW}_stored"],
        )
    ]
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (hour, tenant_id, asset_id, generation, {}, created_timestamp)"
            " SELECT hour, tenant_id, asset_id, 1, {}, hour FROM asset_spans,"
            " generate_series(first_hour + INTERVAL '1 hour', now(), %s) AS hour"
        ).format(
            sql.Identifier(f"{VIEW}_stored"),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join([sql.SQL("round(random()::numeric, 3)")] * len(names)),
        ),
        [step],
    )
    connection.execute(
        "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, tstzmultirange(tstzrange("
        " first_hour + INTERVAL '1 hour', time_bucket(%s, now()) + %s)) FROM asset_spans"
        " ON CONFLICT (view_name, tenant_id, asset_id) DO UPDATE SET stored = excluded.stored",
        [VIEW, step, step],
    )


def _repeat(connection: psycopg.Connection, database: Database, case: Case, work: _Work, number: int) -> bool:
    """Add the newest complete step, refresh and take both back; False: another step has begun meanwhile."""
    refresh(dsn=database.dsn)
    step = _newest(case.step)
    values = History(case.assets, 1, step).hour(step, seed=number)
    insert = timed(partial(history.write, connection, values))
    cpu = _ServerCpu(database.server_pid)
    before = cpu.seconds()
    done = []
    seconds = timed(lambda: done.append(refresh(dsn=database.dsn)))
    used = cpu.seconds() - before
    connection.execute(_TAKE_BACK, [history.TENANT, step])
    refresh(dsn=database.dsn)
    if _newest(case.step) != step:
        return False
    work.insert.runs.append(insert)
    work.refresh.runs.append(seconds)
    work.server_cpu.runs.append(used)
    work.rows = done[0].rows
    return True


def _newest(step: timedelta) -> datetime:
    """The newest complete step."""
    now = datetime.now(UTC)
    return now - (now - datetime(1970, 1, 1, tzinfo=UTC)) % step - step


def _floor(connection: psycopg.Connection, case: Case) -> Times:
    """Seconds of writing a step's rows into an empty table with the columns and indexes of the view's."""
    table = sql.Identifier(f"{VIEW}_stored")
    connection.execute(sql.SQL("CREATE TABLE bench_floor (LIKE {} INCLUDING ALL)").format(table))
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE bench_rows AS SELECT * FROM {} WHERE superseded_at IS NULL AND hour = %s"
        ).format(table),
        [_newest(case.step)],
    )
    times = Times()
    for _ in range(case.repetitions):
        times.measure(lambda: connection.execute("INSERT INTO bench_floor SELECT * FROM bench_rows"))
        connection.execute("TRUNCATE bench_floor")
    connection.execute("DROP TABLE bench_floor, bench_rows")
    return times


def _record(works: Mapping[str, _Work]) -> dict[str, Any]:
    measured = {
        f"{what}, {name}": times.record()
        for name, work in works.items()
        for what, times in (
            ("refresh", work.refresh),
            ("insert of readings", work.insert),
            ("floor", work.floor),
        )
        if times.runs
    }
    return {
        "seconds": measured,
        "rows": {name: work.rows for name, work in works.items()},
        "server_cpu": {name: round(min(work.server_cpu.runs), 4) for name, work in works.items()},
    }


_TEXT = """\
# What refreshing declared features costs

Made by `{command}` from [results.json](results.json), where each run's spread is, too. A reading of each
meter arrives for the newest step, then `ai_hub.db.refresh.refresh` runs: the quickest run of {runs}, and
the least CPU time of the server's processes, in steps of 10 ms. The features that come with AI Hub are
computed in every case. The floor is one INSERT of the same rows of the view into an empty table with its
columns and indexes.

Machine: {cpus} CPUs, {memory} GiB, {system}. {versions}; code {commit},
{measured_at}.

| server | history | declared | rows | refresh | CPU | floor |
|---|---|---|---:|---:|---:|---:|
"""


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `declared-refresh.md`."""
    runs = max(times["runs"] for record in records for times in record["seconds"].values())
    text = _TEXT.format(runs=runs, **measure.description(records[0]))
    for record in records:
        for name, rows in record["rows"].items():
            fastest = {
                what: record["seconds"][f"{what}, {name}"]["min"]
                for what in ("refresh", "floor")
                if f"{what}, {name}" in record["seconds"]
            }
            cells = (
                *(record["server"], record["work"], name, f"{rows:,}", format_time(fastest["refresh"])),
                format_time(record["server_cpu"][name]) if record["server_cpu"][name] else "",
                format_time(fastest.get("floor")),
            )
            text += f"| {' | '.join(cells)} |\n"
    (folder / "declared-refresh.md").write_text(text)


if __name__ == "__main__":
    main()
