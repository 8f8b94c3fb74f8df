"""Comparison of one piece of work by Feast's own classes, by ours and at its floor; its table and plot."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.measure import Times, format_time, paired_ratio, save

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


STOCK, OURS, FLOOR = "stock", "ours", "floor"


@dataclass
class Comparison:
    """Measurements of one piece of work."""

    work: str
    #: what the floor is, in a few words
    floor: str
    sizes: dict[str, int]
    times: defaultdict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    #: peak MiB of a process that did the work once and nothing else, by variant
    peak_mib: dict[str, int] = field(default_factory=dict)
    #: a variant that did not finish, and the seconds it was given
    unfinished: dict[str, float] = field(default_factory=dict)

    def run_interleaved(self, works: Mapping[str, Callable[[], object]], rounds: int) -> None:
        """Measure each variant once per round, alternately, so that noise hits all of them."""
        for number in range(rounds):
            order = list(works)
            for variant in order[:: -1 if number % 2 else 1]:
                self.times[variant].measure(works[variant])

    def record(self) -> dict[str, Any]:
        """Record for the results; ratios of interleaved runs are medians of the ratios."""
        return {
            "work": self.work,
            "floor": self.floor,
            "sizes": self.sizes,
            "seconds": {variant: times.record() for variant, times in self.times.items()},
            "unfinished_s": self.unfinished,
            "ratios": {
                name: round(ratio, 3)
                for name, ratio in (
                    ("stock to ours", self._ratio(STOCK, OURS)),
                    ("ours to floor", self._ratio(OURS, FLOOR)),
                )
                if ratio is not None
            },
            "peak_mib": self.peak_mib,
        }

    def _ratio(self, numerator: str, denominator: str) -> float | None:
        if not {numerator, denominator} <= self.times.keys():
            return None
        above, below = self.times[numerator], self.times[denominator]
        if len(above.runs) == len(below.runs):
            return paired_ratio(above, below)
        return above.median / below.median


_COLOURS = {STOCK: "#b8b8b8", OURS: "#1f3a5f", FLOOR: "#8fbf8f"}
_MEMORY = """
Peak memory is that of a process that does the work once and nothing else, Python and Feast included.
"""


def write_report(folder: Path, name: str, intro: str, records: Sequence[dict[str, Any]]) -> None:
    """Write `<name>.md` and `<name>.svg`; `intro` is the text above the table."""
    first = records[0]
    machine = first["machine"]
    versions = ", ".join(f"{what} {version}" for what, version in first["versions"].items())
    circumstances = (
        f"Made by `{first['command']}` on {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
        f"{machine['system']}, with other work on the machine; {versions}. Medians; minima, maxima and sizes "
        f"are in [results.json](results.json). Code {first['commit']}, {first['measured_at']}.\n"
    )
    picture = f"![Seconds by stock Feast, by ours and at the floor]({name}.svg)\n"
    text = [intro, circumstances, picture, *_table(records)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(text) + "\n")
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "ai-hub", "svg.fonttype": "none", "font.size": 9}):
        _plot(folder / f"{name}.svg", records)


def _table(records: Sequence[dict[str, Any]]) -> list[str]:
    has_memory = any(record["peak_mib"] for record in records)
    titles = ["work", "stock", "ours", "floor", "stock / ours", "ours / floor", "the floor"]
    titles += ["peak, stock", "peak, ours"] if has_memory else []
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * 5 + "---|" + "---:|" * (len(titles) - 7)]
    for record in records:
        ratios, peaks = record["ratios"], record["peak_mib"]
        cells = [
            record["work"],
            *(_seconds(record, variant) for variant in (STOCK, OURS, FLOOR)),
            f"**{ratios['stock to ours']:.3g}**" if "stock to ours" in ratios else "",
            f"{ratios['ours to floor']:.2f}" if "ours to floor" in ratios else "",
            record["floor"],
        ]
        if has_memory:
            cells += [f"{peaks[variant]:,} MiB" if variant in peaks else "" for variant in (STOCK, OURS)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *([_MEMORY] if has_memory else [])]


def _seconds(record: dict[str, Any], variant: str) -> str:
    if variant in record["unfinished_s"]:
        return f"not in {record['unfinished_s'][variant]:g} s"
    times = record["seconds"].get(variant)
    return format_time(times["median"]) if times else ""


def _plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 0.8 + 0.85 * len(records)), layout="constrained")
    axes = figure.subplots()
    for position, record in enumerate(reversed(records)):
        for offset, variant in zip((0.27, 0, -0.27), (STOCK, OURS, FLOOR), strict=True):
            unfinished = record["unfinished_s"].get(variant)
            times = record["seconds"].get(variant)
            if unfinished is None and times is None:
                continue
            width = unfinished or times["median"]
            axes.barh(position + offset, width, 0.26, color=_COLOURS[variant])
            label = f"> {unfinished:g} s" if unfinished else format_time(width)
            axes.annotate(label, (width, position + offset), (4, -3), textcoords="offset points")
    axes.set_yticks(range(len(records)), [record["work"] for record in reversed(records)])
    axes.set_xscale("log")
    axes.set_xlabel("seconds (log scale)")
    axes.margins(x=0.15)
    for variant, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=variant)
    figure.legend(loc="outside upper right", frameon=False, ncols=3)
    save(figure, path)
