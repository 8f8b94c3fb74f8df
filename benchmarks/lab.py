"""Compares ways to lay out the same rows: medians of interleaved runs, and the plans."""

# ruff: noqa: S608 (all that is put into a query is a constant of these files)

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ai_hub.database import connect
from benchmarks.measure import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_RUNS = 9
_MIB = 1 << 20
_MANY = 100


@dataclass
class Answer:
    """One question: numbers of each variant, and plans."""

    question: str
    columns: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    plans: dict[str, str] = field(default_factory=dict)

    def note(self, variant: str, **numbers: float) -> None:
        """Add numbers to a variant's column; the name ends with their unit."""
        self.columns[variant] |= {name.replace("_", " "): value for name, value in numbers.items()}

    def markdown(self) -> str:
        """A row for each number, a column for each variant."""
        names = list(dict.fromkeys(name for column in self.columns.values() for name in column))
        lines = [f"| | {' | '.join(self.columns)} |", "|---" + "|---:" * len(self.columns) + "|"]
        for name in names:
            cells = (_cell(column.get(name)) for column in self.columns.values())
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(found: float | dict[str, float] | None) -> str:
    if found is None:
        return ""
    if isinstance(found, dict):
        return f"{found['planning_ms']:.2f} + {found['execution_ms']:,.2f} ms, {found['pages']:,} pages"
    return f"{found:,.0f}" if found >= _MANY else f"{found:.3g}"


class Lab:
    """A database to lay out rows in, and a connection to it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = connect(dsn, autocommit=True)
        # compiling a plan and starting workers take longer than most plans run
        self.execute("SET jit = off;\nSET max_parallel_workers_per_gather = 0")

    @contextmanager
    def fresh(self) -> Iterator[Lab]:
        """A new session, whose process has used no memory yet."""
        other = Lab(self.dsn)
        with other.connection:
            yield other

    @property
    def backend(self) -> int:
        """Process of the session."""
        return self.connection.info.backend_pid

    def execute(self, query: str) -> None:
        """Run statements, one after the other."""
        for statement in query.split(";\n"):
            self.connection.execute(statement.encode())

    def seconds(self, query: str) -> float:
        """How long a statement takes."""
        return timed(lambda: self.connection.execute(query.encode()))

    def value(self, query: str) -> Any:
        """The one value of a query."""
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
        """Note planning and execution time and pages of each variant's query.

        A query that changes rows is a function of the number of the run, so that each meets other rows.
        """
        found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for number in range(-1, runs):  # the first warms the cache
            for variant, query in queries.items():
                text = query if isinstance(query, str) else query(number + 1)
                (plan,) = self.value(f"EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) {text}")
                root = plan["Plan"]
                pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
                if number >= 0:
                    found[variant].append((plan["Planning Time"], plan["Execution Time"], pages))
        for variant, measured in found.items():
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
