"""Table and plot of the registry beside stock MLflow, from their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.comparison import OURS, STOCK
from benchmarks.report import format_time, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f"}
_NAME = "registry"
_INTRO = """# The model registry

MLflow's own registry and ours in the same run, in turns: the same application with one worker and with
workspaces, a database of its own each on the same server, and the same S3 store behind the artifact proxy.
Times are a client's.

Both do not do the same work. When stock MLflow registers a version it writes a row that points at the run's
files, and it promotes without a look at them, leaving the previous version where it is. Ours copies them
inside S3, reads every copy to prove and to seal it; reads and hashes all of them again at a promotion, which
archives the previous version; and checks each file that is loaded.
"""


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `registry.md` and `registry.svg`."""
    first = records[0]
    machine = first["machine"]
    versions = {what: version for record in records for what, version in record["versions"].items()}
    text = [
        _INTRO,
        (
            f"Made by `{first['command']}` on {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
            f"{machine['system']}, with other work on the machine; "
            f"{', '.join(f'{what} {version}' for what, version in versions.items())}. "
            f"Code {first['commit']}, {first['measured_at']}.\n"
        ),
        "![Milliseconds by stock MLflow and by ours](registry.svg)\n",
        "| database | | stock p50 | p99 | ours p50 | p99 | ours / stock |",
        "|---|---|" + "---:|" * 5,
        *(_row(record) for record in records),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.md").write_text("\n".join(text) + "\n")
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{_NAME}.svg", records)


def _row(record: dict[str, Any]) -> str:
    times = [
        format_time(record["seconds"][variant][which])
        for variant in (STOCK, OURS)
        for which in ("median", "p99")
    ]
    ratio = f"**{record['ratios']['ours to stock']:.3g}**"
    return f"| {' | '.join([record['server'], record['work'], *times, ratio])} |"


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.6 * len(records)), layout="constrained")
    axes = figure.subplots()
    for place, record in enumerate(reversed(records)):
        for offset, (variant, colour) in zip((0.2, -0.2), _COLOURS.items(), strict=True):
            found = record["seconds"][variant]
            middle, late = found["median"] * 1000, found["p99"] * 1000
            axes.barh(place + offset, middle, 0.38, color=colour)
            axes.plot([middle, late], [place + offset] * 2, color="#999999", linewidth=1)
            axes.plot(late, place + offset, marker="|", color="#999999")
            axes.annotate(
                format_time(found["median"]), (late, place + offset), (4, -3), textcoords="offset points"
            )
    names = [f"{record['work'].replace('`', '')}, {record['server']}" for record in reversed(records)]
    axes.set_yticks(range(len(records)), names)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log scale): median, and the line ends at the 99th percentile")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    save(figure, path)
