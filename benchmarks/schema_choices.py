"""What the layout of the tables was chosen by: the same rows in each layout that was considered.

    AI_HUB_BENCH_DSN=postgresql://… python -m benchmarks.schema_choices [QUESTION …] [--output FOLDER]

Creates and drops a database of its own. Prints a table for each question, keeps the numbers in results.json
and the whole plans in build/benchmarks/plans/.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import compute_choices, layouts, results, servers, table_choices
from benchmarks.lab import Answer, Lab

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARK = "schema_choices"
QUESTIONS: dict[str, Callable[[Lab], Answer]] = {
    "index": table_choices.aggregate_index,
    "columnstore": table_choices.columnstore,
    "chunks": table_choices.chunk_interval,
    "time-index": table_choices.time_index,
    "key": table_choices.key_order,
    "real-time": compute_choices.real_time,
    "refresh": compute_choices.refresh_policy,
    "state": compute_choices.hourly_state,
    "jit": compute_choices.compiler,
}


def main() -> None:
    """Answer the questions on the native server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schema_choices", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)} (default: all)"
    )
    parser.add_argument("--output", type=Path, default=results.DOCS, help="folder of results.json")
    given = parser.parse_args()
    servers.clean_up_when_terminated()
    admin = os.environ[servers.NATIVE]
    for name in given.questions or QUESTIONS:
        with servers.native(admin, migrated=False) as database:
            laboratory = _laboratory(database.dsn)
            with laboratory.connection:
                answer = QUESTIONS[name](laboratory)
        print(f"\n## {answer.question}\n\n{answer.markdown()}", flush=True)
        folder = results.SCRATCH / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        plans = (f"-- {work}\n{plan}\n" for work, plan in answer.plans.items())
        (folder / f"{name}.txt").write_text("\n".join(plans))
        record = {
            "benchmark": BENCHMARK,
            "server": "native",
            "work": answer.question,
            "variants": answer.columns,
            "sizes": {"assets": layouts.TENANTS * layouts.ASSETS, "days": layouts.DAYS},
            "command": f"python -m benchmarks.schema_choices {name}",
            "versions": servers.versions(admin),
        }
        results.store(given.output, [record | results.circumstances()])


def _laboratory(dsn: str) -> Lab:
    """An empty database with the extension, the meters and the statistics' aggregates of our schema."""
    laboratory = Lab(dsn)
    laboratory.execute("CREATE EXTENSION timescaledb")
    laboratory.execute(layouts.METERS.format(tenants=layouts.TENANTS, assets=layouts.ASSETS))
    laboratory.execute(layouts.STATE)
    return laboratory


if __name__ == "__main__":
    main()
