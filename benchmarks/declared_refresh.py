"""Refreshing one new hour or quarter-hour of declared features, beside writing the same rows.

    python -m benchmarks.declared_refresh [--small] [--server embedded|native]
        [--case month|year|quarters|fleet] [--output FOLDER]

A reading of each meter arrives for the newest step, `ai_hub.db.refresh.refresh` runs, and it is taken back.
The floor is one INSERT of as many rows into an empty table with the columns and indexes of the view's. For a
fleet, a follower then brings the rows of the contract's services into Redis; there the floor is sending the
same commands. Last, features of 50,000 random assets and times are read by Feast's point-in-time join.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
from feast import FeatureStore
from feast.aggregation import Aggregation
from psycopg import sql

from ai_hub.db import connect
from ai_hub.db.refresh import open_session, refresh
from ai_hub.features.materialize import Follower
from ai_hub.features.newest import followed_views, newest_rows
from ai_hub.features.store import online_client, open_store
from benchmarks import history, measure, servers
from benchmarks.comparison import OURS
from benchmarks.declared import ENTITIES, FEATURES, VIEW, apply, require_values
from benchmarks.feast_repository import open_store as open_bench_store
from benchmarks.history import HOUR, History
from benchmarks.materialize import commands, write
from benchmarks.measure import Times, format_time, timed
from benchmarks.servers import HOST, Postgres, valkey
from benchmarks.service_site import Site
from feast_plugins.postgres import session
from feast_plugins.windows import DegreeHours, Difference, Lag, Ratio, SameHour, declared_view
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    #: chooses it
    key: str
    name: str
    assets: int
    days: int
    step: timedelta
    views: Mapping[str, Mapping[str, Any]]
    repetitions: int = 7
    #: rows of the point-in-time join
    joined: int = 50_000

    @property
    def is_fleet(self) -> bool:
        """Whether its rows go to Redis, too; too large for the embedded server."""
        return self.key == _FLEET


_BY_HOUR = {"13 features": FEATURES, "60 features": MANY}
_FLEET = "fleet"
FULL = (
    Case("month", "100 meters, a month of hours", 100, 30, HOUR, _BY_HOUR),
    Case("year", "100 meters, a year of hours", 100, 365, HOUR, _BY_HOUR),
    # joined: the same share of the rows as of hours
    Case(
        *("quarters", "100 meters, a year of quarter-hours", 100, 365, _QUARTER),
        {"15 features": QUARTERS},
        joined=200_000,
    ),
    Case(_FLEET, "10,000 meters, 2 days of hours", 10_000, 2, HOUR, {"13 features": FEATURES}, 3),
)
SMALL = (
    Case("month", "2 meters, 15 days of hours", 2, 15, HOUR, _BY_HOUR, 2, 200),
    Case(
        "quarters", "2 meters, 15 days of quarter-hours", 2, 15, _QUARTER, {"15 features": QUARTERS}, 2, 200
    ),
    Case(_FLEET, "20 meters, 2 days of hours", 20, 2, HOUR, {"13 features": FEATURES}, 2, 200),
)


@dataclass
class _Work:
    """Runs of one view: seconds, and the server's CPU time where it is on this machine."""

    refresh: Times = field(default_factory=Times)
    #: in a session that has refreshed before
    again: Times = field(default_factory=Times)
    server_cpu: Times = field(default_factory=Times)
    insert: Times = field(default_factory=Times)
    floor: Times = field(default_factory=Times)
    join: Times = field(default_factory=Times)
    online: Times = field(default_factory=Times)
    online_floor: Times = field(default_factory=Times)
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
    arguments = servers.arguments("declared_refresh", __doc__, *(case.key for case in FULL))
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    servers.clean_up_when_terminated()
    records = []
    for server in arguments.server or servers.available():
        for case in SMALL if arguments.small else FULL:
            if case.key not in (arguments.case or [case.key]) or (case.is_fleet and server == "embedded"):
                continue
            with servers.databases(server, (BENCHMARK,)) as databases:
                database = databases[BENCHMARK]
                print(f"{server}: {case.name}", flush=True)
                records.append(
                    {"benchmark": BENCHMARK, "server": server, "work": case.name}
                    | {"sizes": {"assets": case.assets, "days": case.days}, "seed": history.SEED}
                    | _record(case, _measure(case, database))
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
    with ExitStack() as stack:
        connection = stack.enter_context(connect(database.dsn, autocommit=True))
        series.add_assets(connection)
        history.write(connection, series.rows())
        refresh(dsn=database.dsn)
        online = stack.enter_context(_online(database.dsn)) if case.is_fleet else None
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
            while len(work.refresh.runs) < case.repetitions:
                _repeat(connection, database, case, work, online)
            if online:
                work.online_floor = online.floor(case.repetitions)
            if features:
                work.floor = _floor(connection, case)
                work.join = _join(database.dsn, case, features)
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


def _repeat(
    connection: psycopg.Connection, database: Database, case: Case, work: _Work, online: _Online | None
) -> None:
    """Add the newest complete step, refresh and take both back; not counted if another step has begun."""
    refresh(dsn=database.dsn)
    if online:
        online.follower.catch_up()
    step = _newest(case.step)
    one_step = partial(History(case.assets, 1, step).hour, step)
    insert = timed(partial(history.write, connection, one_step(seed=len(work.refresh.runs))))
    cpu = _ServerCpu(database.server_pid)
    before = cpu.seconds()
    done = []
    seconds = timed(lambda: done.append(refresh(dsn=database.dsn)))
    used = cpu.seconds() - before
    followed = online.follower.catch_up() if online else None
    connection.execute(_TAKE_BACK, [history.TENANT, step])
    with open_session(database.dsn) as session:
        refresh(session=session)
        history.write(connection, one_step(seed=case.repetitions + len(work.refresh.runs)))
        again = timed(partial(refresh, session=session))
    connection.execute(_TAKE_BACK, [history.TENANT, step])
    refresh(dsn=database.dsn)
    if _newest(case.step) != step:
        return
    work.insert.runs.append(insert)
    work.refresh.runs.append(seconds)
    work.again.runs.append(again)
    work.server_cpu.runs.append(used)
    work.rows = done[0].rows
    if followed:
        assert set(followed.rows.values()) == {case.assets}, followed.rows  # noqa: S101  # a fault of the benchmark
        work.online.runs.append(followed.seconds)


@dataclass(frozen=True)
class _Online:
    """What `ai-hub materialize --follow` has: a feature store, and a follower of refreshes."""

    store: FeatureStore
    follower: Follower

    def floor(self, repetitions: int) -> Times:
        """Seconds of writing the newest row of each asset and view by commands that were encoded before."""
        found = []
        now = datetime.now(UTC)
        for view in followed_views(self.store):
            with (
                session.connect(self.store.config.offline_store) as reads,
                newest_rows(reads, view, now) as rows,
            ):
                found += commands(self.store, view, rows)
        times = Times()
        for _ in range(repetitions):
            times.measure(lambda: write(online_client(self.store), found))
        return times


@contextmanager
def _online(dsn: str) -> Iterator[_Online]:
    """A Valkey, a registry and a follower of the refreshes of a database, in this process."""
    before = dict(os.environ)
    with valkey() as keys, tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as folder:
        site = Site(Path(folder), {"TIMESCALE_DSN": dsn, "REDIS_URL": f"redis://{HOST}:{keys.port}/0"})
        site.apply()
        os.environ.update(site.environment)
        try:
            store = open_store()
            yield _Online(store, Follower(store, ages=False))
        finally:
            os.environ.clear()
            os.environ.update(before)


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


def _join(dsn: str, case: Case, features: Mapping[str, Any]) -> Times:
    """Seconds of Feast's history of the view, of random assets and times."""
    random = np.random.default_rng(history.SEED)
    newest = _newest(case.step)
    seconds = random.integers(0, case.days * 86_400, case.joined)
    entities = pd.DataFrame(
        {
            "tenant_id": history.TENANT,
            "asset_id": random.choice(History(case.assets, case.days, newest).names, case.joined),
            "event_timestamp": newest - pd.to_timedelta(seconds, unit="s"),
        }
    )
    address = urlsplit(dsn)
    server = Postgres(
        address.port or 5432,
        address.password or "",
        pid=0,
        user=address.username or "",
        database=address.path.removeprefix("/"),
    )
    view = declared_view(name=VIEW, entities=ENTITIES, features=features, step=case.step)
    references = [f"{VIEW}:{name}" for name in features]
    times = Times()
    with tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as folder:
        store = open_bench_store(OURS, server, Path(folder), [*ENTITIES, view])
        for _ in range(case.repetitions):
            times.measure(lambda: store.get_historical_features(entities, references).to_arrow())
    return times


def _record(case: Case, works: Mapping[str, _Work]) -> dict[str, Any]:
    measured = {
        f"{what}, {name}": times.record()
        for name, work in works.items()
        for what, times in (
            ("refresh", work.refresh),
            ("again", work.again),
            ("insert of readings", work.insert),
            ("floor", work.floor),
            ("join", work.join),
            ("online", work.online),
            ("floor online", work.online_floor),
        )
        if times.runs
    }
    return {
        "seconds": measured,
        "rows": {name: work.rows for name, work in works.items()},
        "joined": {name: case.joined for name, work in works.items() if work.join.runs},
        "server_cpu": {name: round(min(work.server_cpu.runs), 4) for name, work in works.items()},
    }


_COLUMNS = ("again", "floor", "online", "floor online", "join")
_TEXT = """\
# What refreshing declared features costs

Made by `{command}` from [results.json](results.json), where each run's spread is, too. A reading of each
meter arrives for the newest step, then `ai_hub.db.refresh.refresh` runs: the quickest run of {runs}, and
the least CPU time of the server's processes, in steps of 10 ms. "Again" is the same in a session that has
refreshed before, as `ai-hub materialize --follow --refresh` does it: a new one has to connect, and to read
the catalog and plan each query first. The features that come with AI Hub are
computed in every case. The floor is one INSERT of the same rows of the view into an empty table with its
columns and indexes. "Then online" is how long a running `ai-hub materialize --follow` takes to bring the rows
of the contract's services into Redis; its floor is sending the same commands. "Join" is Feast's
point-in-time history of the view's features for random assets and times, a row of it.

Machine: {cpus} CPUs, {memory} GiB, {system}. {versions}; code {commit},
{measured_at}.

| server | history | declared | rows | refresh | CPU | again | floor | then online | floor | join, a row |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `declared-refresh.md`."""
    runs = max(times["runs"] for record in records for times in record["seconds"].values())
    text = _TEXT.format(runs=runs, **measure.description(records[0]))
    for record in records:
        for name, rows in record["rows"].items():
            fastest = {
                what: record["seconds"][f"{what}, {name}"]["min"]
                for what in ("refresh", *_COLUMNS)
                if f"{what}, {name}" in record["seconds"]
            }
            if "join" in fastest:
                fastest["join"] /= record["joined"][name]
            cells = (
                *(record["server"], record["work"], name, f"{rows:,}", format_time(fastest["refresh"])),
                format_time(record["server_cpu"][name]) if record["server_cpu"][name] else "",
                *(
                    format_time(fastest.get(what))
                    for what in ("again", "floor", "online", "floor online", "join")
                ),
            )
            text += f"| {' | '.join(cells)} |\n"
    (folder / "declared-refresh.md").write_text(text)


if __name__ == "__main__":
    main()
