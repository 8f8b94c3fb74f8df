"""Table and plot of online reads, from their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.comparison import FLOOR, OURS, STOCK
from benchmarks.report import format_time, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f", FLOOR: "#8fbf8f"}
_NAME = "online"
_INTRO = """# Online reads

Feast's own Redis store, ours and the floor in the same run, on the same rows of the same Valkey, in turns.
Each read goes as far as the message with values, statuses and event times. The HTTP servers are `feast serve`
and ours, one process each; {connections} clients ask them, each again as soon as it is answered.

The floor of a read is redis-py fetching the same fields of the same hashes in one pipeline, and nothing more:
no keys are made, nothing becomes a response. That of the servers is the same web server sending the same
bytes.
"""


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `online.md` and `online.svg`."""
    first = records[0]
    machine = first["machine"]
    versions = ", ".join(f"{what} {version}" for what, version in first["versions"].items())
    connections = max(record["sizes"].get("connections", 0) for record in records)
    text = [
        _INTRO.format(connections=connections),
        (
            f"Made by `{first['command']}` on {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
            f"{machine['system']}, with other work on the machine; {versions}. Code {first['commit']}, "
            f"{first['measured_at']}.\n"
        ),
        "![Milliseconds by stock Feast, by ours and at the floor](online.svg)\n",
        "| | stock p50 | p99 | ours p50 | p99 | floor p50 | p99 | stock / ours | ours / floor |",
        "|---|" + "---:|" * 8,
        *(_row(record) for record in records),
        "",
        *(_server(record) for record in records if "connections" in record["sizes"]),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.md").write_text("\n".join(text) + "\n")
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{_NAME}.svg", records)


def _row(record: dict[str, Any]) -> str:
    times = [
        format_time(record["seconds"][variant][which])
        for variant in (STOCK, OURS, FLOOR)
        for which in ("median", "p99")
    ]
    ratios = record["ratios"]
    cells = [*times, f"**{ratios['stock to ours']:.3g}**", f"{ratios['ours to floor']:.2f}"]
    return f"| {record['work']} | {' | '.join(cells)} |"


def _server(record: dict[str, Any]) -> str:
    rates = {variant: found["requests_per_second"] for variant, found in record["seconds"].items()}
    return (
        f"{record['work']}: {rates[STOCK]:,.0f} requests a second by `feast serve`, {rates[OURS]:,.0f} by "
        f"ours, {rates[OURS] / rates[STOCK]:.1f} times as many; {rates[FLOOR]:,.0f} at the floor."
    )


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.85 * len(records)), layout="constrained")
    axes = figure.subplots()
    for place, record in enumerate(reversed(records)):
        for offset, variant in zip((0.27, 0, -0.27), _COLOURS, strict=True):
            found = record["seconds"][variant]
            middle, late = found["median"] * 1000, found["p99"] * 1000
            axes.barh(place + offset, middle, 0.26, color=_COLOURS[variant])
            axes.plot([middle, late], [place + offset] * 2, color="#999999", linewidth=1)
            axes.plot(late, place + offset, marker="|", color="#999999")
            axes.annotate(
                format_time(found["median"]), (late, place + offset), (4, -3), textcoords="offset points"
            )
    axes.set_yticks(range(len(records)), [record["work"] for record in reversed(records)])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log scale): median, and the line ends at the 99th percentile")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=3)
    save(figure, path)
