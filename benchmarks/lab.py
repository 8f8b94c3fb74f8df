"""Comparison of layouts of the same rows: the rows, medians of interleaved runs, and query plans."""

# ruff: noqa: S608 (all that is put into a query is a constant of these files)

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ai_hub.db import connect
from benchmarks.measure import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_RUNS = 9
_MIB = 1 << 20
_MANY = 100


@dataclass
class Answer:
    """Answer to one question: numbers by variant, and query plans."""

    question: str
    columns: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    plans: dict[str, str] = field(default_factory=dict)

    def note(self, variant: str, **numbers: float) -> None:
        """Add numbers to a variant's column; names end with the unit."""
        self.columns[variant] |= {name.replace("_", " "): value for name, value in numbers.items()}

    def markdown(self) -> str:
        """A row for each number, a column for each variant."""
        names = list(dict.fromkeys(name for column in self.columns.values() for name in column))
        lines = [f"| | {' | '.join(self.columns)} |", "|---" + "|---:" * len(self.columns) + "|"]
        for name in names:
            cells = (_cell(column.get(name)) for column in self.columns.values())
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(number: float | dict[str, float] | None) -> str:
    if number is None:
        return ""
    if isinstance(number, dict):
        return f"{number['planning_ms']:.2f} + {number['execution_ms']:,.2f} ms, {number['pages']:,} pages"
    return f"{number:,.0f}" if number >= _MANY else f"{number:.3g}"


class Lab:
    """A database to lay out rows in, and a connection to it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = connect(dsn, autocommit=True)
        # compiling a plan and starting workers take longer than most plans run
        self.execute("SET jit = off;\nSET max_parallel_workers_per_gather = 0")

    @contextmanager
    def fresh(self) -> Iterator[Lab]:
        """A new session, whose process has not used memory yet."""
        other = Lab(self.dsn)
        with other.connection:
            yield other

    @property
    def backend(self) -> int:
        """Process id of the session's backend."""
        return self.connection.info.backend_pid

    def execute(self, query: str) -> None:
        """Run statements, one after the other."""
        for statement in query.split(";\n"):
            self.connection.execute(statement.encode())

    def seconds(self, query: str) -> float:
        """Seconds of a statement."""
        return timed(lambda: self.connection.execute(query.encode()))

    def value(self, query: str) -> Any:
        """The single value of a query."""
        row = self.connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def mib(self, relation: str) -> float:
        """Size of a hypertable with its indexes, after compression where it is."""
        return float(self.value(f"SELECT hypertable_size('{relation}')")) / _MIB

    def materialized(self, aggregate: str) -> str:
        """The hypertable behind a continuous aggregate."""
        return str(
            self.value(
                "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
                f" FROM timescaledb_information.continuous_aggregates WHERE view_name = '{aggregate}'"
            )
        )

    def compare(
        self,
        answer: Answer,
        work: str,
        queries: Mapping[str, str | Callable[[int], str]],
        *,
        runs: int = _RUNS,
    ) -> None:
        """Record planning time, execution time and pages of each variant's query.

        A query that changes rows is a function of the number of the run, so that each meets other rows.
        """
        rows: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for number in range(-1, runs):  # the first warms the cache
            for variant, query in queries.items():
                text = query if isinstance(query, str) else query(number + 1)
                (plan,) = self.value(f"EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) {text}")
                root = plan["Plan"]
                pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
                if number >= 0:
                    rows[variant].append((plan["Planning Time"], plan["Execution Time"], pages))
        for variant, measured in rows.items():
            planning, execution, pages = (statistics.median(column) for column in zip(*measured, strict=True))
            answer.columns[variant][work] = {
                "planning_ms": round(planning, 3),
                "execution_ms": round(execution, 3),
                "pages": round(pages),
            }
        for variant, query in queries.items():
            text = query if isinstance(query, str) else query(runs + 1)
            answer.plans[f"{work}, {variant}"] = self.plan(text)

    def plan(self, query: str) -> str:
        """The plan, after running it."""
        lines = self.connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {query}".encode()).fetchall()
        return "\n".join(line for (line,) in lines)


TENANTS = 4
ASSETS = 25
DAYS = 365
ONE = "tenant_id = 'tenant-2' AND asset_id = 'meter-007'"
HOUR = "date_trunc('hour', now())"
DAY_AGO = f"{HOUR} - INTERVAL '1 day'"
#: What every layout is filled from: the same values with every run.
METERS = """
CREATE TABLE meters AS
SELECT 'tenant-' || tenant AS tenant_id, 'meter-' || lpad(asset::text, 3, '0') AS asset_id,
    tenant * 7 + asset AS level
FROM generate_series(1, {tenants}) AS tenant, generate_series(1, {assets}) AS asset
"""
READINGS = """
CREATE TABLE {name} (
    "timestamp" timestamptz NOT NULL, tenant_id text NOT NULL, asset_id text NOT NULL,
    value double precision NOT NULL,
    quality text NOT NULL DEFAULT 'good' CHECK (quality IN ('good', 'estimated', 'suspect')),
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id, "timestamp")
);
SELECT create_hypertable('{name}', by_range('timestamp', INTERVAL '{chunk}'), create_default_indexes => false)
"""
FILL = """
SELECT setseed(0.7);
INSERT INTO {name} ("timestamp", tenant_id, asset_id, value)
SELECT time, tenant_id, asset_id,
    floor(1000 * (level * (2 + sin(extract(epoch FROM time) / 86400 * 2 * pi())) + random())) / 1000
FROM generate_series('{start}'::timestamptz, '{end}'::timestamptz, INTERVAL '{step}') AS time, meters
"""
AGGREGATE = """
CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, {options}) AS
SELECT tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
    avg(value) AS avg_value, stddev_samp(value) AS std_value,
    min(value) AS min_value, max(value) AS max_value,
    count(*) AS sample_count, stats_state(value) AS value_stats, max(ingested_at) AS last_ingested_at
FROM {source} GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") WITH NO DATA
"""
STATE = """
CREATE AGGREGATE stats_state(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
);
CREATE AGGREGATE stats_merge(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
)
"""
OWN_INDEX = "timescaledb.create_group_indexes = false"


def fill(
    laboratory: Lab, name: str, *, chunk: str = "30 days", step: str = "1 hour", days: int = DAYS
) -> None:
    """A hypertable of readings up to this hour."""
    laboratory.execute(READINGS.format(name=name, chunk=chunk))
    start, end = (
        laboratory.value(f"SELECT {HOUR} - INTERVAL '{back}'") for back in (f"{days} days", "1 minute")
    )
    laboratory.execute(FILL.format(name=name, start=start, end=end, step=step))
    laboratory.execute(f"ANALYZE {name}")


def aggregate(laboratory: Lab, name: str, source: str, *, real_time: bool = False) -> None:
    """An hourly aggregate with the index that ours has."""
    options = f"{OWN_INDEX}, timescaledb.materialized_only = {str(not real_time).lower()}"
    laboratory.execute(AGGREGATE.format(name=name, source=source, options=options))
    laboratory.execute(f"CREATE INDEX ON {name} (tenant_id, asset_id, hour)")
