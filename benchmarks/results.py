"""`results.json`: a record a benchmark, work and server; a run replaces its own and keeps the others."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
#: Where the results of full runs are kept.
DOCS = ROOT / "docs" / "benchmarks"
#: Where those of small runs go, which nobody should compare.
SCRATCH = ROOT / "build" / "benchmarks"
_FILE = "results.json"
_KEY = ("benchmark", "server", "work")


def circumstances() -> dict[str, Any]:
    """When, where and of which code a record is."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
        },
    }


def description(record: dict[str, Any]) -> dict[str, Any]:
    """What a report says of how a record was made, by the names of its placeholders."""
    machine = record["machine"]
    return {
        "cpus": machine["cpus"],
        "memory": machine["memory_gib"],
        "system": machine["system"],
        "versions": ", ".join(f"{what} {version}" for what, version in record["versions"].items()),
        **{name: record[name] for name in ("command", "commit", "measured_at")},
    }


def load(folder: Path) -> list[dict[str, Any]]:
    """All records in `folder`."""
    try:
        return list(json.loads((folder / _FILE).read_text()))
    except FileNotFoundError:
        return []


def store(folder: Path, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge `records` into the file and return all."""
    merged = {_key(record): record for record in load(folder)} | {_key(record): record for record in records}
    ordered = [merged[key] for key in sorted(merged)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps(ordered, indent=2) + "\n")
    return ordered


def select(records: Iterable[dict[str, Any]], benchmark: str) -> list[dict[str, Any]]:
    """Those of one benchmark."""
    return [record for record in records if record["benchmark"] == benchmark]


def _key(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(record[name] for name in _KEY)
