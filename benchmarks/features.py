"""Cost of refreshing features: one new hour, late readings, a full rebuild, a bulk load.

    python -m benchmarks.features [--small] [--server embedded|native] [--output FOLDER]

Measures on embedded servers it starts, and on the native server that AI_HUB_BENCH_DSN names.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, LiteralString

import matplotlib as mpl
from matplotlib.figure import Figure
from psycopg import sql

from ai_hub.db import connect
from ai_hub.db.refresh import Refreshed, refresh
from benchmarks import history, measure, servers
from benchmarks.history import HOUR, History, Rows, this_hour, write
from benchmarks.measure import PeakMemory, Times, format_time, paired_ratio, save, timed
from benchmarks.servers import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from pathlib import Path

    from matplotlib.axes import Axes


_TITLES = {"native": "native server", "embedded": "embedded server"}
_COLOURS = {"month": "#5b8db8", "year": "#1f3a5f"}
_INTRO = """\
# What refreshing features costs

Made by `{command}` from [results.json](results.json), where minima, maxima, seeds and versions are, too.
{assets} meters with hourly readings for a month (30 days) and for a year (365 days) in two databases,
measured in turns; medians. One new hour is one new reading a meter, then `ai_hub.db.refresh.refresh`.
The floor is what the same rows cost at least: the readings inserted into a table without triggers, the
feature rows sent to the client by binary `COPY`. Chunks older than 60 days are compressed, so the reading
that is 200 days old goes into one.

Machine: {cpus} CPUs, {memory} GiB, {system}; other work ran on it.
"""

_MEMORY = """\
Readings/s counts both steps. Memory is the peak of all processes of a server; pages they share,
`shared_buffers` above all, count once.
"""


def write_report(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `features.md`, `features-refresh.svg` and `features-bulk.svg`."""
    refreshes = [record for record in records if record["work"] == "refresh"]
    bulks = [record for record in records if record["work"] != "refresh"]
    first = refreshes[0]
    machine = first["machine"]
    text = [
        _INTRO.format(
            command=first["command"],
            assets=first["sizes"]["assets"],
            cpus=machine["cpus"],
            memory=machine["memory_gib"],
            system=machine["system"],
        ),
        "![Seconds of each kind of refresh, with a month and with a year of history](features-refresh.svg)\n",
        *(_refresh_table(record) for record in refreshes),
        "## Bulk load into an empty database\n",
        "![Rows a second and peak memory of a bulk load](features-bulk.svg)\n",
        _bulk_table(bulks),
    ]
    (folder / "features.md").write_text("\n".join(text))
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot_refreshes(folder, refreshes)
        _plot_bulks(folder, bulks)


def _refresh_table(record: dict[str, Any]) -> str:
    works = _works(record["seconds"])
    lines = [
        f"## Refresh, {_TITLES[record['server']]}\n",
        f"{_software(record)}, code {record['commit']}, {record['measured_at']}.\n",
        "| work | rows computed | month of history | year of history | year / month |",
        "|---|---:|---:|---:|---:|",
    ]
    for work in works:
        month, year = (_median(record, f"{work}, {size}") for size in ("month", "year"))
        ratio = f"{year / month:.2f}" if month and year else ""
        counts = [record["rows_computed"].get(f"{work}, {size}") for size in ("month", "year")]
        rows = " / ".join(dict.fromkeys(f"{count:,}" for count in counts if count is not None))
        lines.append(f"| {work} | {rows} | {format_time(month)} | {format_time(year)} | {ratio} |")
    for work in ("insert", "copy", "copy all"):
        month, year = (record["floor_seconds"][f"{work}, {size}"] for size in ("month", "year"))
        lines.append(f"| floor: {_FLOORS[work]} | | {format_time(month)} | {format_time(year)} | |")
    ratios = record["ratios"]
    lines += [
        "",
        "| ratio | month | year |",
        "|---|---:|---:|",
        *(
            f"| {title} | {_ratio(ratios[f'{key}, month'])} | {_ratio(ratios[f'{key}, year'])} |"
            for key, title in _RATIOS.items()
        ),
        "",
        f"One new hour, year to month, run by run: **{ratios['one new hour, year to month']:.2f}**.\n",
    ]
    return "\n".join(lines)


_FLOORS = {
    "insert": "the hour's readings without triggers",
    "copy": "the hour's feature rows to the client",
    "copy all": "all versions of feature rows to the client",
}
_RATIOS = {
    "one new hour to full rebuild": "one new hour / full rebuild",
    "one new hour to its floor": "one new hour / its floor",
    "full rebuild to its floor": "full rebuild / its floor",
}


def _bulk_table(records: list[dict[str, Any]]) -> str:
    titles = (
        *("server", "history", "readings", "feature rows", "insert", "aggregates and features", "readings/s"),
        *("insert / its floor", "peak server", "peak client"),
    )
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for record in records:
        sizes, ratios, memory = record["sizes"], record["ratios"], record["peak_mib"]
        server = max((mib for name, mib in memory.items() if name.startswith("server")), default=None)
        client = max(mib for name, mib in memory.items() if name.startswith("client"))
        cells = (
            record["server"],
            record["work"].rpartition(" ")[2],
            f"{sizes['readings']:,}",
            f"{sizes['feature rows']:,}",
            format_time(_median(record, "insert")),
            format_time(_median(record, "aggregates and features")),
            f"{ratios['readings a second, all']:,}",
            f"{ratios['insert to its floor']}",
            "" if server is None else f"{server:,} MiB",
            f"{client:,} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _MEMORY])


def _plot_refreshes(folder: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 1 + 2.6 * len(records)), layout="constrained")
    panels = figure.subplots(len(records), 1, squeeze=False)[:, 0]
    for axes, record in zip(panels, records, strict=True):
        names = [name for name in record["seconds"] if not name.startswith("inserting")]
        works = _works(names)[::-1]
        for position, work in enumerate(works):
            for offset, (size, colour) in zip((0.2, -0.2), _COLOURS.items(), strict=True):
                times = record["seconds"].get(f"{work}, {size}")
                if not times:
                    continue
                low, middle, high = times["min"], times["median"], times["max"]
                spread = [[middle - low], [high - middle]]
                axes.barh(position + offset, middle, 0.38, color=colour, xerr=spread, ecolor="#999999")
                axes.annotate(
                    format_time(middle), (high, position + offset), (4, -3), textcoords="offset points"
                )
        axes.set_yticks(range(len(works)), works)
        axes.margins(x=0.12)
        axes.set_xscale("log")
        axes.set_xlabel("seconds (log scale)")
        axes.set_title(
            f"Refresh of {record['sizes']['assets']} meters, {_TITLES[record['server']]}", loc="left"
        )
        _legend(axes)
    save(figure, folder / "features-refresh.svg")


def _plot_bulks(folder: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.5 * len(records)), layout="constrained")
    rates, memory = figure.subplots(1, 2)
    labels = [f"{record['server']}, {record['work'].rpartition(' ')[2]}" for record in records]
    for position, record in enumerate(records):
        colour = _COLOURS[record["work"].rpartition(" ")[2]]
        rate = record["ratios"]["readings a second, all"]
        rates.barh(position, rate, color=colour)
        rates.annotate(f"{rate:,}", (rate, position), (4, -3), textcoords="offset points")
        peak = max((mib for name, mib in record["peak_mib"].items() if name.startswith("server")), default=0)
        memory.barh(position, peak, color=colour)
        memory.annotate(f"{peak:,}", (peak, position), (4, -3), textcoords="offset points")
    for axes, title in ((rates, "readings/s, insert to features"), (memory, "server's peak memory, MiB")):
        axes.set_yticks(range(len(labels)), labels)
        axes.margins(x=0.2)
        axes.set_title(title, loc="left")
    save(figure, folder / "features-bulk.svg")


def _legend(axes: Axes) -> None:
    for size, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=f"{size} of history")
    axes.legend(loc="lower right", frameon=False)


def _works(names: Iterable[str]) -> list[str]:
    """The works in the order they were measured, the rebuild last."""
    works = dict.fromkeys(name.rpartition(", ")[0] for name in names)
    return sorted(works, key=lambda work: work == "full rebuild")


def _median(record: dict[str, Any], name: str) -> float | None:
    times = record["seconds"].get(name)
    return times["median"] if times else None


def _software(record: dict[str, Any]) -> str:
    versions = record["versions"]
    return f"PostgreSQL {versions['postgresql']}, TimescaleDB {versions['timescaledb']}"


def _ratio(value: float) -> str:
    return f"{value:.2%}" if value < 1 else f"{value:.1f}"


BENCHMARK = "features"
MONTH, YEAR = "month", "year"
_DAYS = {MONTH: 30, YEAR: 365}
_COMPRESS = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
_TAKE_BACK = 'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" >= %s'
_ROWS_OF_THE_HOUR = "SELECT * FROM ai_features WHERE event_timestamp >= date_trunc('hour', now())"
_LATE = {"one corrected reading, 3 days old": 3, "one corrected reading, 200 days old": 200}
NOTHING, NEW_HOUR, REBUILD = "nothing new", "one new hour", "full rebuild"


@dataclass(frozen=True)
class Size:
    """Size of the data; fixed, so that runs can be compared."""

    assets: int
    repetitions: int
    rebuilds: dict[str, int]


FULL = Size(assets=100, repetitions=11, rebuilds={"embedded": 1, "native": 2})
SMALL = Size(assets=1, repetitions=2, rebuilds={"embedded": 1, "native": 1})


@dataclass
class Case:
    """A database with a history, and its measurements."""

    database: Database
    history: History
    times: defaultdict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    #: Feature rows that a run of a work computes.
    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def refresh(self) -> Refreshed:
        """Refresh the features."""
        return refresh(dsn=self.database.dsn)

    def rebuild(self) -> Refreshed:
        """Compute everything anew."""
        return refresh(dsn=self.database.dsn, since=self.history.start)

    def measure(self, work: str, run: Callable[[], Refreshed]) -> None:
        """Record the seconds of `run` and the rows it computed."""
        computed = []
        self.times[work].measure(lambda: computed.append(run().rows))
        self.rows[work] = computed[0]


def main() -> None:
    """Measure and write records, table and plots."""
    arguments = servers.arguments("features", __doc__)
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    servers.clean_up_when_terminated()
    command = "make bench SMALL=1" if arguments.small else "make bench"
    circumstances = measure.circumstances()
    records: list[dict[str, Any]] = []
    for server in arguments.server or servers.available():
        with servers.databases(server, (MONTH, YEAR)) as databases:
            records += [
                {"benchmark": BENCHMARK, "server": server, **record, "seed": history.SEED, "command": command}
                | {"versions": servers.versions(databases[YEAR].dsn)}
                | circumstances
                for record in _measure(databases, server, size)
            ]
    write_report(folder, measure.select(measure.store(folder, records), BENCHMARK))
    print(f"written to {folder}")


def _measure(databases: dict[str, Database], server: str, size: Size) -> list[dict[str, Any]]:
    cases = {
        name: Case(
            database, History(size.assets, _DAYS[name], this_hour() - 2 * HOUR), defaultdict(Times), {}
        )
        for name, database in databases.items()
    }
    bulk = [_bulk(name, case) for name, case in cases.items()]
    for case in cases.values():
        _compress(case)
    for number in range(size.repetitions):
        _say(f"{server}: repetition {number + 1} of {size.repetitions}")
        # each first in every other repetition
        for case in list(cases.values())[:: -1 if number % 2 else 1]:
            _repeat(case, number)
    memory: dict[str, int] = {}
    for number in range(size.rebuilds[server]):
        _say(f"{server}: rebuild {number + 1} of {size.rebuilds[server]}")
        for name, case in cases.items():
            with PeakMemory(case.database.server_pid) as peak:
                case.measure(REBUILD, case.rebuild)
            memory |= {f"{who}, {REBUILD}, {name}": mib for who, mib in peak.record().items()}
    for case in cases.values():
        _floors(case)
    return [*bulk, _summary(cases, memory)]


def _bulk(name: str, case: Case) -> dict[str, Any]:
    """Load the history into an empty database, then refresh for the first time."""
    rows = case.history.rows()
    _say(f"{name}: {len(rows)} rows")
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    with connect(case.database.dsn, autocommit=True) as connection:
        case.history.add_assets(connection)
        with PeakMemory(case.database.server_pid) as peak:
            seconds["insert"] = timed(lambda: write(connection, rows))
        memory |= {f"{who}, insert": mib for who, mib in peak.record().items()}
        with PeakMemory(case.database.server_pid) as peak:
            seconds["aggregates and features"] = timed(case.refresh)
        memory |= {f"{who}, aggregates and features": mib for who, mib in peak.record().items()}
        connection.execute(history.CREATE_BARE)
        floor = {
            "insert without triggers": timed(lambda: write(connection, rows, history.INSERT_BARE)),
            "binary COPY of the readings": timed(lambda: _copy(case, "SELECT * FROM bench_floor")),
            "binary COPY of the features": timed(lambda: _copy(case, "SELECT * FROM ai_features_stored")),
        }
        connection.execute("DROP TABLE bench_floor")
        connection.execute(history.CREATE_BARE)
        features = _count(case, "SELECT count(*) FROM ai_features_stored")
    total = sum(seconds.values())
    return {
        "work": f"bulk load, one {name}",
        "sizes": {"assets": case.history.assets, "readings": len(rows), "feature rows": features},
        "seconds": {work: {"median": round(value, 3), "runs": 1} for work, value in seconds.items()},
        "floor_seconds": {work: round(value, 3) for work, value in floor.items()},
        "ratios": {
            "insert to its floor": round(seconds["insert"] / floor["insert without triggers"], 2),
            "readings a second, insert": round(len(rows) / seconds["insert"]),
            "readings a second, all": round(len(rows) / total),
            "feature rows a second": round(features / seconds["aggregates and features"]),
        },
        "peak_mib": memory,
    }


def _compress(case: Case) -> None:
    """Compress as the policy would, and analyze as autovacuum would."""
    with connect(case.database.dsn, autocommit=True) as connection:
        for (job,) in connection.execute(_COMPRESS).fetchall():
            connection.execute("CALL run_job(%s)", [job])
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")


def _repeat(case: Case, number: int) -> None:
    """One run of every kind of refresh."""
    while True:
        # what an hour that ended since has made due
        case.refresh()
        hour = this_hour()
        new_case = _new_hour(case, hour - HOUR, number)
        if this_hour() == hour:
            break
    for work, times in new_case.times.items():
        case.times[work].runs += times.runs
    case.rows |= new_case.rows
    for work, days in _LATE.items():
        if days < case.history.days:
            at = case.history.end - timedelta(days=days)
            late = Rows(case.history.names[:1], [int(at.timestamp())], [100.0 + number])
            with connect(case.database.dsn, autocommit=True) as connection:
                case.times[f"inserting {work}"].measure(partial(write, connection, late, history.CORRECT))
            case.measure(work, case.refresh)


def _new_hour(case: Case, hour: datetime, number: int) -> Case:
    """Add the newest complete hour, then delete it, so that each run starts from the same state."""
    new_case = Case(case.database, case.history)
    new = case.history.hour(hour, seed=number)
    new_case.measure(NOTHING, case.refresh)
    with connect(case.database.dsn, autocommit=True) as connection:
        new_case.times[f"inserting {NEW_HOUR}"].measure(partial(write, connection, new))
        new_case.measure(NEW_HOUR, case.refresh)
        new_case.times["floor: insert"].measure(partial(write, connection, new, history.INSERT_BARE))
        new_case.times["floor: copy"].measure(lambda: _copy(case, _ROWS_OF_THE_HOUR))
        connection.execute(_TAKE_BACK, [history.TENANT, hour])
        connection.execute("TRUNCATE bench_floor")
    case.refresh()
    return new_case


def _floors(case: Case) -> None:
    for _ in range(3):
        case.times["floor: copy all"].measure(partial(_copy, case, "SELECT * FROM ai_features_stored"))
    case.counts["stored feature rows"] = _count(
        case, "SELECT count(*) FROM ai_features_stored WHERE superseded_at IS NULL"
    )
    case.counts["versions of feature rows"] = _count(case, "SELECT count(*) FROM ai_features_stored")
    case.counts["readings"] = _count(case, "SELECT count(*) FROM timeseries_data")


def _summary(cases: dict[str, Case], memory: dict[str, int]) -> dict[str, Any]:
    month, year = cases[MONTH].times, cases[YEAR].times
    ratios = {"one new hour, year to month": round(paired_ratio(year[NEW_HOUR], month[NEW_HOUR]), 3)}
    for name, case in cases.items():
        times = case.times
        floor = times["floor: insert"].median + times["floor: copy"].median
        rebuild_floor = times["floor: copy all"].median
        ratios |= {
            f"one new hour to full rebuild, {name}": round(times[NEW_HOUR].median / times[REBUILD].median, 5),
            f"one new hour to its floor, {name}": round(times[NEW_HOUR].median / floor, 1),
            f"full rebuild to its floor, {name}": round(times[REBUILD].median / rebuild_floor, 1),
        }
    return {
        "work": "refresh",
        "sizes": {"assets": cases[MONTH].history.assets}
        | {f"{what}, {name}": count for name, case in cases.items() for what, count in case.counts.items()},
        "seconds": {
            f"{work}, {name}": times.record()
            for name, case in cases.items()
            for work, times in case.times.items()
            if not work.startswith("floor")
        },
        "rows_computed": {
            f"{work}, {name}": count for name, case in cases.items() for work, count in case.rows.items()
        },
        "floor_seconds": {
            f"{work.removeprefix('floor: ')}, {name}": round(times.median, 5)
            for name, case in cases.items()
            for work, times in case.times.items()
            if work.startswith("floor")
        },
        "ratios": ratios,
        "peak_mib": memory,
    }


def _copy(case: Case, query: LiteralString) -> None:
    """Send the rows of `query` to the client by binary COPY."""
    command = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(sql.SQL(query))
    with (
        connect(case.database.dsn) as connection,
        connection.cursor() as cursor,
        cursor.copy(command) as copy,
    ):
        for _ in copy:
            pass


def _count(case: Case, query: LiteralString) -> int:
    with connect(case.database.dsn) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
