"""Table of the fleet, from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_INTRO = """# A fleet at the turn of an hour

100,000 meters of 10 and of 1,000 tenants, 100,000 API keys and 100,000 finished exports on a native
TimescaleDB. The history is that of the hours which the features look at. `FEATURE_CACHE_TTL` is ten seconds,
so that what five minutes after the hour bring is there ten seconds after it: readings of all meters arrive at
the hour, eleven seconds after it `ai-hub refresh` begins, and a running `ai-hub materialize --follow` brings
the rows into Redis. All the time 100 requests a second read `forecast_basic` of one meter each; "degraded or
failed" are answers with `degraded: true` or another status than 200.

A machine of {cpus} CPUs carries TimescaleDB, Valkey, service, follower and load; the last row tells what else
it was doing.

Columns "before" are of code 6eee22c. Since then keys are read by id, nothing is read for an answer that Redis
has, and rows stay current while the follower brings their successors. A refresh computes single hours without
windows, in two sessions of 5,000 rows a transaction, and looks superseded versions up by key; rows go to
Redis as columns, and a follower reads those that were computed. Columns "before" had shared_buffers 2GB and
work_mem 32MB, on a machine that was shared with other work.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}; {versions}.

"""


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `fleet.md`: a row for each number, a column for each shape and label."""
    records = sorted(records, key=lambda record: (record["sizes"]["tenants"], record["label"] != "before"))
    names = list(dict.fromkeys(name for record in records for name in record["found"]))
    lines = [
        f"| | {' | '.join(record['work'] for record in records)} |",
        "|---" + "|---:" * len(records) + "|",
        *(
            f"| {name} | {' | '.join(str(record['found'].get(name, '')) for record in records)} |"
            for name in names
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = _INTRO.format(**results.facts(records[-1])) + "\n".join(lines) + "\n"
    (folder / "fleet.md").write_text(text)
