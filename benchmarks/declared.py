"""Storing a year of declared features of 100 meters, and one lag more, beside writing the same rows.

    python -m benchmarks.declared [--small] [--server embedded|native] [--output FOLDER]

Runs what `ai-hub features backfill` does. The floor copies the stored rows into a table alike, with its
indexes, in as many sessions as a refresh has on a native server; the embedded one takes no COPY, so there it
is one INSERT.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feast import Entity, ValueType
from feast.aggregation import Aggregation
from psycopg import sql

from ai_hub.db import connect
from ai_hub.db.connection import shares_backend
from ai_hub.db.refresh import SESSIONS, refresh
from benchmarks import history, measure, servers
from benchmarks.backfill import FULL, SMALL
from benchmarks.history import HOUR, History, this_hour
from benchmarks.measure import timed
from feast_plugins.windows import Calendar, Lag, Weather, declared_view
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import psycopg

BENCHMARK = "declared"
VIEW = "bench_declared"
_DAY = timedelta(days=1)
#: All that the contract's views have.
FEATURES: Mapping[str, Any] = {
    "historical_avg_24h": Aggregation("value", "mean", _DAY, HOUR),
    "historical_std_24h": Aggregation("value", "std", _DAY, HOUR),
    "historical_min_24h": Aggregation("value", "min", _DAY, HOUR),
    "historical_max_24h": Aggregation("value", "max", _DAY, HOUR),
    "lag_1h": Lag("value", HOUR),
    "lag_24h": Lag("value", _DAY),
    "lag_168h": Lag("value", 7 * _DAY),
    "temperature": Weather("temperature"),
    "humidity": Weather("humidity"),
    "solar_irradiance": Weather("solar_irradiance"),
    "hour_of_day": Calendar("hour_of_day"),
    "day_of_week": Calendar("day_of_week"),
    "is_weekend": Calendar("is_weekend"),
}
ENTITIES = [
    Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING) for name in ("tenant", "asset")
]


def main() -> None:
    """Measure and write results and table."""
    arguments = servers.arguments("declared", __doc__)
    size = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    servers.clean_up_when_terminated()
    series = History(size.assets, size.days, this_hour() - HOUR)
    records = []
    for server in arguments.server or servers.available():
        with servers.databases(server, (BENCHMARK,)) as databases:
            dsn = databases[BENCHMARK].dsn
            record = _measure(dsn, series)
            records.append(
                {"benchmark": BENCHMARK, "server": server, **record, "seed": history.SEED}
                | {"command": "make bench SMALL=1" if arguments.small else "make bench"}
                | {"versions": servers.versions(dsn)}
                | measure.circumstances()
            )
    _write(folder, measure.select(measure.store(folder, records), BENCHMARK))
    print(f"written to {folder}")


def _measure(dsn: str, series: History) -> dict[str, Any]:
    with connect(dsn, autocommit=True) as connection:
        series.add_assets(connection)
        history.write(connection, series.rows())
        refresh(dsn=dsn)
        seconds, stored = {}, {}
        declarations = {
            "13 features": FEATURES,
            "one lag more": {**FEATURES, "lag_48h": Lag("value", 2 * _DAY)},
        }
        for work, features in declarations.items():
            apply(connection, BENCHMARK, features)
            declared.request_backfill(connection, VIEW)
            seconds[work] = timed(lambda: refresh(dsn=dsn))
            require_values(connection)
            (stored[work],) = connection.execute(
                "SELECT stored FROM declared_progress WHERE view_name = %s", [VIEW]
            ).fetchall()[0]
        seconds["floor"] = _floor(dsn)
    rows = stored["13 features"]
    return {
        "work": f"history of declared features, {rows:,} rows",
        "sizes": {"assets": series.assets, "rows": rows},
        "rows_stored": stored,
        "seconds": {work: {"median": round(each, 1), "runs": 1} for work, each in seconds.items()},
        "ratios": {f"{work} to floor": round(seconds[work] / seconds["floor"], 2) for work in declarations},
    }


def require_values(connection: psycopg.Connection) -> None:
    """Check that the stored rows have values: empty ones would cost less."""
    query = sql.SQL("SELECT count(lag_1h) > 0.9 * count(*) FROM {}").format(sql.Identifier(f"{VIEW}_stored"))
    assert connection.execute(query).fetchone() == (True,)  # noqa: S101  # a fault of the benchmark


def apply(
    connection: psycopg.Connection, project: str, features: Mapping[str, Any], step: timedelta = HOUR
) -> None:
    """What `feast apply` does."""
    view = declared_view(name=VIEW, entities=ENTITIES, features=features, step=step)
    with declared.allow_losses():
        declared.apply(
            connection, project, declared.changes(connection, project, declared.declarations_of([view]))
        )


def _floor(dsn: str) -> float:
    """Seconds of writing the present rows into an empty table with the same columns and indexes."""
    table = sql.Identifier(f"{VIEW}_stored")
    with connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE TABLE bench_floor (LIKE {} INCLUDING ALL);"
                " SELECT create_hypertable('bench_floor', by_range('hour', INTERVAL '30 days'),"
                " create_default_indexes => false)"
            ).format(table)
        )
        (generation,) = connection.execute(
            sql.SQL("SELECT max(generation) FROM {}").format(table)
        ).fetchall()[0]
        rows = sql.SQL("SELECT * FROM {} WHERE generation = {} AND abs(hashtext(asset_id)) % {} = {}")
        if shares_backend(connection):
            every = rows.format(table, generation, 1, 0)
            return timed(lambda: connection.execute(sql.SQL("INSERT INTO bench_floor {}").format(every)))
        parts = []
        for session in range(SESSIONS):
            query = rows.format(table, generation, SESSIONS, session)
            with connection.cursor().copy(
                sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
            ) as out:
                parts.append([bytes(block) for block in out])

    def write(part: list[bytes]) -> None:
        with (
            connect(dsn, autocommit=True) as session,
            session.cursor().copy("COPY bench_floor FROM STDIN (FORMAT binary)") as into,
        ):
            for block in part:
                into.write(block)

    def write_all() -> None:
        with ThreadPoolExecutor(SESSIONS) as pool:
            list(pool.map(write, parts))

    return timed(write_all)


_TEXT = """\
# What history of declared features costs

Made by `{command}` from [results.json](results.json): the 13 features of the contract as a declared view over
{assets} meters with a year of hourly readings and the weather of one station, all rows stored as
`ai-hub features backfill` does; then the view gets one lag more and all rows are stored again. The floor
writes the same rows, computed already, into an empty table with the same columns and indexes: by COPY in two
sessions, or by one INSERT on the embedded server.

| | {titles} |
|---|{lines}|
"""


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `declared.md`."""
    rows: dict[str, list[str]] = {}
    for record in records:
        software, seconds, stored = record["versions"], record["seconds"], record["rows_stored"]
        cells = {
            "PostgreSQL / TimescaleDB": f"{software['postgresql']} / {software['timescaledb']}",
            "floor": f"{seconds['floor']['median']:,.1f} s",
            **{
                f"{work}, {stored[work]:,} rows": (
                    f"{seconds[work]['median']:,.1f} s, {stored[work] / seconds[work]['median']:,.0f} rows/s"
                )
                for work in stored
            },
            "measured": f"{record['measured_at']}, code {record['commit']}",
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    text = _TEXT.format(
        command=records[0]["command"],
        assets=records[0]["sizes"]["assets"],
        titles=" | ".join(record["server"] for record in records),
        lines="|".join("---:" for _ in records),
    )
    text += "".join(f"| {title} | {' | '.join(cells)} |\n" for title, cells in rows.items())
    (folder / "declared.md").write_text(text)


if __name__ == "__main__":
    main()
