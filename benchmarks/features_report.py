"""The table and the plots of the feature benchmark, from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import format_time, save

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes

_TITLES = {"native": "native server", "embedded": "embedded server"}
_COLOURS = {"month": "#5b8db8", "year": "#1f3a5f"}
_INTRO = """\
# What refreshing features costs

Made by `{command}` from [results.json](results.json), where minima, maxima, seeds and versions are, too.
{assets} meters with hourly readings for a month (30 days) and for a year (365 days) in two databases,
measured in turns; medians. One new hour is one new reading a meter, then `ai_hub.database.refresh.refresh`.
The floor is what the same rows cost at least: the readings inserted into a table without triggers, the
feature rows sent to the client by binary `COPY`. Chunks older than 60 days are compressed, so the reading
that is 200 days old goes into one.

Machine: {cpus} CPUs, {memory} GiB, {system}; other work ran on it.
"""

_MEMORY = """\
Readings/s counts both steps. Memory is the peak of all processes of a server; pages they share,
`shared_buffers` above all, count once.
"""


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write `features.md`, `features-refresh.svg` and `features-bulk.svg`."""
    refreshes = [record for record in records if record["work"] == "refresh"]
    bulks = [record for record in records if record["work"] != "refresh"]
    first = refreshes[0]
    machine = first["machine"]
    text = [
        _INTRO.format(
            command=first["command"],
            assets=first["sizes"]["assets"],
            cpus=machine["cpus"],
            memory=machine["memory_gib"],
            system=machine["system"],
        ),
        "![Seconds of each kind of refresh, with a month and with a year of history](features-refresh.svg)\n",
        *(_refresh_table(record) for record in refreshes),
        "## Bulk load into an empty database\n",
        "![Rows a second and peak memory of a bulk load](features-bulk.svg)\n",
        _bulk_table(bulks),
    ]
    (folder / "features.md").write_text("\n".join(text))
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot_refreshes(folder, refreshes)
        _plot_bulks(folder, bulks)


def _refresh_table(record: dict[str, Any]) -> str:
    works = _works(record["seconds"])
    lines = [
        f"## Refresh, {_TITLES[record['server']]}\n",
        f"{_software(record)}, code {record['commit']}, {record['measured_at']}.\n",
        "| work | rows computed | month of history | year of history | year / month |",
        "|---|---:|---:|---:|---:|",
    ]
    for work in works:
        month, year = (_median(record, f"{work}, {size}") for size in ("month", "year"))
        ratio = f"{year / month:.2f}" if month and year else ""
        counts = [record["rows_computed"].get(f"{work}, {size}") for size in ("month", "year")]
        rows = " / ".join(dict.fromkeys(f"{count:,}" for count in counts if count is not None))
        lines.append(f"| {work} | {rows} | {format_time(month)} | {format_time(year)} | {ratio} |")
    for work in ("insert", "copy", "copy all"):
        month, year = (record["floor_seconds"][f"{work}, {size}"] for size in ("month", "year"))
        lines.append(f"| floor: {_FLOORS[work]} | | {format_time(month)} | {format_time(year)} | |")
    ratios = record["ratios"]
    lines += [
        "",
        "| ratio | month | year |",
        "|---|---:|---:|",
        *(
            f"| {title} | {_ratio(ratios[f'{key}, month'])} | {_ratio(ratios[f'{key}, year'])} |"
            for key, title in _RATIOS.items()
        ),
        "",
        f"One new hour, year to month, run by run: **{ratios['one new hour, year to month']:.2f}**.\n",
    ]
    return "\n".join(lines)


_FLOORS = {
    "insert": "the hour's readings without triggers",
    "copy": "the hour's feature rows to the client",
    "copy all": "all versions of feature rows to the client",
}
_RATIOS = {
    "one new hour to full rebuild": "one new hour / full rebuild",
    "one new hour to its floor": "one new hour / its floor",
    "full rebuild to its floor": "full rebuild / its floor",
}


def _bulk_table(records: list[dict[str, Any]]) -> str:
    titles = (
        *("server", "history", "readings", "feature rows", "insert", "aggregates and features", "readings/s"),
        *("insert / its floor", "peak server", "peak client"),
    )
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for record in records:
        sizes, ratios, memory = record["sizes"], record["ratios"], record["peak_mib"]
        server = max((mib for name, mib in memory.items() if name.startswith("server")), default=None)
        client = max(mib for name, mib in memory.items() if name.startswith("client"))
        cells = (
            record["server"],
            record["work"].rpartition(" ")[2],
            f"{sizes['readings']:,}",
            f"{sizes['feature rows']:,}",
            format_time(_median(record, "insert")),
            format_time(_median(record, "aggregates and features")),
            f"{ratios['readings a second, all']:,}",
            f"{ratios['insert to its floor']}",
            "" if server is None else f"{server:,} MiB",
            f"{client:,} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _MEMORY])


def _plot_refreshes(folder: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 1 + 2.6 * len(records)), layout="constrained")
    panels = figure.subplots(len(records), 1, squeeze=False)[:, 0]
    for axes, record in zip(panels, records, strict=True):
        names = [name for name in record["seconds"] if not name.startswith("inserting")]
        works = _works(names)[::-1]
        for position, work in enumerate(works):
            for offset, (size, colour) in zip((0.2, -0.2), _COLOURS.items(), strict=True):
                times = record["seconds"].get(f"{work}, {size}")
                if not times:
                    continue
                low, middle, high = times["min"], times["median"], times["max"]
                spread = [[middle - low], [high - middle]]
                axes.barh(position + offset, middle, 0.38, color=colour, xerr=spread, ecolor="#999999")
                axes.annotate(
                    format_time(middle), (high, position + offset), (4, -3), textcoords="offset points"
                )
        axes.set_yticks(range(len(works)), works)
        axes.margins(x=0.12)
        axes.set_xscale("log")
        axes.set_xlabel("seconds (log scale)")
        axes.set_title(
            f"Refresh of {record['sizes']['assets']} meters, {_TITLES[record['server']]}", loc="left"
        )
        _legend(axes)
    save(figure, folder / "features-refresh.svg")


def _plot_bulks(folder: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.5 * len(records)), layout="constrained")
    rates, memory = figure.subplots(1, 2)
    labels = [f"{record['server']}, {record['work'].rpartition(' ')[2]}" for record in records]
    for position, record in enumerate(records):
        colour = _COLOURS[record["work"].rpartition(" ")[2]]
        rate = record["ratios"]["readings a second, all"]
        rates.barh(position, rate, color=colour)
        rates.annotate(f"{rate:,}", (rate, position), (4, -3), textcoords="offset points")
        peak = max((mib for name, mib in record["peak_mib"].items() if name.startswith("server")), default=0)
        memory.barh(position, peak, color=colour)
        memory.annotate(f"{peak:,}", (peak, position), (4, -3), textcoords="offset points")
    for axes, title in ((rates, "readings/s, insert to features"), (memory, "server's peak memory, MiB")):
        axes.set_yticks(range(len(labels)), labels)
        axes.margins(x=0.2)
        axes.set_title(title, loc="left")
    save(figure, folder / "features-bulk.svg")


def _legend(axes: Axes) -> None:
    for size, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=f"{size} of history")
    axes.legend(loc="lower right", frameon=False)


def _works(names: Iterable[str]) -> list[str]:
    """The works in the order they were measured, the rebuild last."""
    works = dict.fromkeys(name.rpartition(", ")[0] for name in names)
    return sorted(works, key=lambda work: work == "full rebuild")


def _median(record: dict[str, Any], name: str) -> float | None:
    times = record["seconds"].get(name)
    return times["median"] if times else None


def _software(record: dict[str, Any]) -> str:
    versions = record["versions"]
    return f"PostgreSQL {versions['postgresql']}, TimescaleDB {versions['timescaledb']}"


def _ratio(value: float) -> str:
    return f"{value:.2%}" if value < 1 else f"{value:.1f}"
