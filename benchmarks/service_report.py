"""Table and plot of the REST service, from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import measure
from benchmarks.comparison import FLOOR, OURS, STOCK
from benchmarks.measure import format_time, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f", FLOOR: "#8fbf8f"}
_NAME = "service"
_INTRO = """# The REST service

`ai-hub serve` with one worker and API keys, on TimescaleDB ({server}) and a Valkey with the features of
{tenants} tenants with {assets} meters each, {days} days of hourly readings. `feast serve` (one process, same
rows of the same Valkey, same registry) and the floor (uvicorn sending one of our answers, always the same
bytes) are asked in turns with it.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}; {versions}.
Code {commit}, {measured_at}.

## At a fixed rate

Requests leave at fixed times, whatever is still unanswered, and the clock runs from the time a request should
have left until its answer is complete. A process of its own sends them, over kept connections.

![Milliseconds by stock Feast, by ours and at the floor](service.svg)
"""


def write(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `service.md` and `service.svg`."""
    first = max(records, key=lambda record: str(record["measured_at"]))
    intro = _INTRO.format(
        **{name: first["sizes"][name] for name in ("tenants", "assets", "days")},
        server=first["server"],
        **measure.description(first),
    )
    timed = [record for record in records if not record["connections"]]
    closed = [record for record in records if record["connections"]]
    timed.sort(key=lambda record: (record["limit_ms"] is None, record["limit_ms"], record["work"]))
    text = [
        intro,
        "| | requests/s | must be below | p50 | p99 | slowest | `feast serve` p50 | p99 | floor p50 | p99 |",
        "|---|" + "---:|" * 9,
        *(_row(record) for record in timed),
        "",
        *_answers(timed),
        *(_as_fast(closed) if closed else ()),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.md").write_text("\n".join(text) + "\n")
    if not timed:
        return
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{_NAME}.svg", timed)


def _as_fast(records: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "## As fast as they can\n",
        (
            f"{records[0]['connections']} clients, each with a connection, ask again as soon as they are "
            "answered: requests a second.\n"
        ),
        (
            "| | `feast serve` | ours | floor | ours / `feast serve` | ours / floor | our p99 |"
            " our CPU a request |"
        ),
        "|---|" + "---:|" * 7,
        *(_closed(record) for record in records),
    ]


def _row(record: dict[str, Any]) -> str:
    limit, ours = record["limit_ms"], record["seconds"][OURS]
    within_limit = limit is None or ours["p99"] * 1000 < limit
    cells = [
        f"{record['rate']:.0f}",
        "" if limit is None else f"{limit} ms",
        format_time(ours["median"]),
        f"**{format_time(ours['p99'])}**" if within_limit else f"{format_time(ours['p99'])}, TOO LONG",
        format_time(ours["max"]),
    ]
    for variant in (STOCK, FLOOR):
        times = record["seconds"].get(variant)
        cells += [format_time(times[which]) if times else "" for which in ("median", "p99")]
    return f"| {record['work']} | {' | '.join(cells)} |"


def _answers(records: Sequence[dict[str, Any]]) -> list[str]:
    """Summary of the answers by status."""
    total = sum(record["seconds"][OURS]["runs"] for record in records)
    statuses: dict[str, int] = {}
    for record in records:
        for status, count in record["seconds"][OURS]["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    codes = ", ".join(f"{count:,} with {status}" for status, count in sorted(statuses.items()))
    lines = [
        f"{total:,} requests to ours: {codes}; {sum(record['degraded'] for record in records):,} degraded.\n"
    ]
    if any(STOCK in record["seconds"] for record in records):
        failed = sum(
            count
            for record in records
            for status, count in record["seconds"].get(STOCK, {"statuses": {}})["statuses"].items()
            if status != "200"
        )
        lines.append(f"`feast serve` failed to answer {failed:,} requests of its own.\n")
    return lines


def _closed(record: dict[str, Any]) -> str:
    rates = {variant: times["requests_per_second"] for variant, times in record["seconds"].items()}
    ratios = record["ratios"]
    floor = f"{rates[FLOOR]:,.0f}" if FLOOR in rates else ""
    share = f"{1 / ratios['ours to floor']:.2f}" if FLOOR in rates else ""
    # records of earlier code lack it
    cpu = f"{record['cpu_us']} µs" if "cpu_us" in record else ""
    return (
        f"| {record['work']} | {rates[STOCK]:,.0f} | {rates[OURS]:,.0f} | {floor} | "
        f"**{ratios['stock to ours']:.1f}** | {share} | {format_time(record['seconds'][OURS]['p99'])} |"
        f" {cpu} |"
    )


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.85 * len(records)), layout="constrained")
    axes = figure.subplots()
    for position, record in enumerate(reversed(records)):
        for offset, variant in zip((0.27, 0, -0.27), _COLOURS, strict=True):
            if not (times := record["seconds"].get(variant)):
                continue
            middle, late = times["median"] * 1000, times["p99"] * 1000
            axes.barh(position + offset, middle, 0.26, color=_COLOURS[variant])
            axes.plot([middle, late], [position + offset] * 2, color="#999999", linewidth=1)
            axes.plot(late, position + offset, marker="|", color="#999999")
            axes.annotate(
                format_time(times["median"]), (late, position + offset), (4, -3), textcoords="offset points"
            )
        if limit := record["limit_ms"]:
            axes.plot([limit, limit], [position - 0.4, position + 0.4], color="#b03a2e", linewidth=1.5)
    axes.set_yticks(range(len(records)), [record["work"] for record in reversed(records)])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (log scale): median, the line ends at the 99th percentile; red: its limit")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=3)
    save(figure, path)
