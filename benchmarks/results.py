"""Records in `results.json`, one per benchmark, work and server; what their reports share."""

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

    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
#: Where the results of full runs are kept.
DOCS = ROOT / "docs" / "benchmarks"
#: Where those of small runs go, which nobody should compare.
SCRATCH = ROOT / "build" / "benchmarks"
_FILE = "results.json"
_KEY = ("benchmark", "server", "work")


def circumstances() -> dict[str, Any]:
    """Time, machine and commit of a record."""
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
    """Values of a report's placeholders about how a record was made."""
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
    """Records of one benchmark."""
    return [record for record in records if record["benchmark"] == benchmark]


def format_time(seconds: float | None) -> str:
    """Three digits, in the unit that suits."""
    if seconds is None:
        return ""
    return (
        f"{seconds:#.3g} s".replace(". ", " ")
        if seconds >= 1
        else f"{seconds * 1000:#.3g} ms".replace(". ", " ")
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure whose bytes depend on nothing but what it shows."""
    figure.savefig(path, metadata={"Date": None})
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def _key(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(record[name] for name in _KEY)
