"""Table of exports, from their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.comparison import FLOOR, OURS
from benchmarks.report import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_INTRO = """# Exports

Rows of `forecast_advanced` with their keys and times, written to Parquet by the process that `ai-hub serve`
keeps for exports (zstd, sorted, with SHA-256), beside a binary
`COPY (SELECT the same columns FROM forecast_advanced_features WHERE …) TO STDOUT` of the same rows that is
thrown away as it arrives. A job's time is from the moment the worker takes it up until the file is in place;
memory is the peak of the worker's resident set, its libraries included.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}; {versions}.
Code {commit}, {measured_at}.

"""
_COLUMNS = (
    *("server", "window", "to", "rows", "export", "rows/s"),
    *("COPY", "export / COPY", "worker's peak", "file", "COPY's bytes"),
)
_MIB = 1 << 20


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `exports.md`."""
    records = sorted(records, key=lambda record: (record["server"], record["sizes"]["rows"]), reverse=True)
    first = records[0]
    text = _INTRO.format(**results.facts(first))
    folder.mkdir(parents=True, exist_ok=True)
    text += f"| {' | '.join(_COLUMNS)} |\n|---|---|---|{'---:|' * (len(_COLUMNS) - 3)}\n"
    (folder / "exports.md").write_text(text + "".join(_row(record) for record in records))


def _row(record: dict[str, Any]) -> str:
    sizes, seconds = record["sizes"], record["seconds"]
    ours = seconds[OURS]["median"]
    cells = (
        record["server"],
        record["window"],
        record["where"],
        f"{sizes['rows']:,}",
        format_time(ours),
        f"{sizes['rows'] / ours:,.0f}",
        format_time(seconds[FLOOR]["median"]),
        f"**{record['ratios']['ours to floor']:.2f}**",
        f"{record['peak_mib']['worker']} MiB",
        f"{sizes['file_bytes'] / _MIB:.1f} MiB",
        f"{sizes['copied_bytes'] / _MIB:.1f} MiB",
    )
    return f"| {' | '.join(cells)} |\n"
