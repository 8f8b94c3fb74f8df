"""Table of faults, from their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.report import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_INTRO = """# Faults

Each fault is made for real while `ai-hub serve` (one worker, keys, its export worker) answers {rate:.0f}
requests a second for the newest features of {assets} meters of two tenants, a tenth of that for features at a
past time, lists models, and takes a registration and an export a second; a further client stores readings.
A TCP proxy in Python stands between the service and each server. Killed is SIGKILL to all processes of a
server; the harness starts it again as a supervisor would. Nobody does anything else.

What clients saw counts answers from the moment of the fault on. Healthy is how long after the fault was over
the last answer came that was not a full 200, or `/health/ready` did not say `ready`. Lost compares the served
features of every meter and all readings before and after, and looks for every confirmed reading of the
writing client, every registered version, and of each accepted export its job, row count and SHA-256. Before
the fault are the first seconds after the service's start, in which it loads the registry and its libraries.
A wrong clock is wrong from the service's start on, its worker's too, and stays so; readiness names S3 where
it refuses signatures for their time, as S3 does from 15 minutes on.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}. Code {commit},
{measured_at}.
"""
_HEAD = (
    *(
        "fault",
        "newest features",
        "past features",
        "models",
        "registrations",
        "exports",
        "p99 before",
        "p99 during",
    ),
    *("longest gap", "restart took", "healthy after", "lost"),
)


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `faults.md`."""
    first = records[0]
    sizes = first["sizes"]
    text = [_INTRO.format(rate=sizes["rate"], assets=sizes["assets"], **results.facts(first))]
    for server in ("native", "embedded"):
        chosen = [record for record in records if record["server"] == server]
        if not chosen:
            continue
        software = chosen[0]["versions"]
        text += [
            f"## {server.title()} TimescaleDB\n",
            f"PostgreSQL {software['postgresql']}, TimescaleDB {software['timescaledb']}.\n",
            f"| {' | '.join(_HEAD)} |",
            f"|---|{'---|' * 5}{'---:|' * 5}---|",
            *(_row(record) for record in chosen),
            "",
        ]
        if said := _said(chosen):
            text += ["What refused requests were told:\n", *said, ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text("\n".join(text))


def _row(record: dict[str, Any]) -> str:
    streams, seconds = record["streams"], record["seconds"]
    cells = [
        record["work"],
        *(_stream(streams[name]) for name in ("features", "past features", "models")),
        _registrations(record["registrations"]),
        _exports(record["exports"]),
        *(
            "" if seconds[when] is None else format_time(seconds[when]["p99"])
            for when in ("before", "during")
        ),
        f"{record['gap_s']:.2f} s",
        f"{record['restart_s']:.1f} s" if record["restart_s"] > 0.1 else "",  # noqa: PLR2004  # a tenth
        _healthy(record),
        "; ".join(record["lost"]) or "nothing",
    ]
    return f"| {' | '.join(cells)} |"


def _healthy(record: dict[str, Any]) -> str:
    if not record["lasting"]:
        return f"**{record['healthy_s']:.1f} s**"
    down = ", ".join(record["not ready"])
    return f"not ready while it lasts: {down}" if down else "ready all the time"


def _stream(found: dict[str, Any]) -> str:
    total = sum(found["statuses"].values())
    others = {status: count for status, count in found["statuses"].items() if status not in {"0", "200"}}
    parts = [f"{count} of {total} {status}" for status, count in others.items()]
    parts += [f"{count} {how}" for how, count in found["failures"].items()]
    if found["degraded"]:
        parts.append(f"{found['degraded']} of {total} degraded")
    return ", ".join(parts) or f"all {total} 200"


def _registrations(found: dict[str, int]) -> str:
    good = found.get("201", 0)
    others = [
        f"{count} unanswered" if status == "0" else f"{count} answered {status}"
        for status, count in found.items()
        if status != "201"
    ]
    return ", ".join([f"{good} of {sum(found.values())} done", *others])


def _exports(found: dict[str, Any]) -> str:
    others = {status: count for status, count in found["statuses"].items() if status != "202"}
    parts = [f"{found['completed']} of {found['accepted']} completed"]
    parts += [
        f"{count} answered {status}" if status != "0" else f"{count} unanswered"
        for status, count in others.items()
    ]
    if found["failed"]:
        parts.append(f"{len(found['failed'])} failed with a reason")
    if found["taken up again"]:
        parts.append(f"{found['taken up again']} taken up again")
    return ", ".join(parts)


def _said(records: Sequence[dict[str, Any]]) -> list[str]:
    """Each message once."""
    messages = {
        f"- {status}: {message}": None
        for record in records
        for stream in record["streams"].values()
        for status, message in stream["said"].items()
    }
    reasons = {f"- export failed: {why}": None for record in records for why in record["exports"]["failed"]}
    return [*messages, *reasons]
