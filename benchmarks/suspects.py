"""How many planted faults `ai-hub check readings` finds, and what it finds in meters as they are.

    python -m benchmarks.suspects [--load FILE --timezone ZONE] [--draws N]

Takes the demo's meters, and those of FILE as docs/benchmarks/day-ahead.md describes it. Every fault is
planted alone, in nine months of a meter from a drawn place on. No server is needed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd

from ai_hub.dev.demo import data as demo
from ai_hub.ingest.options import FindingKind
from ai_hub.ingest.suspects import Meter, frozen_weather, suspects
from ai_hub.times import from_micros
from benchmarks.public_load import TEMPERATURE, read_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ai_hub.ingest.suspects import Values
    from ai_hub.times import Micros

    Plant = Callable[[Values, int, np.random.Generator], int]

_PART: Final = 24 * 270
_BEFORE: Final = 24 * 35
_AFTER: Final = 24 * 15
_YEAR: Final = 365.25 * 24


class Series(NamedTuple):
    """The hours of a meter, or of a weather station."""

    times: Micros
    values: Values
    meter: Meter


def code(number: float) -> Plant:
    """One to five readings that are a code."""

    def plant(values: Values, at: int, random: np.random.Generator) -> int:
        count = int(random.integers(1, 6))
        values[at : at + count] = number
        return count

    return plant


def copied(days: int) -> Plant:
    """Days of one to 25 days before."""

    def plant(values: Values, at: int, random: np.random.Generator) -> int:
        back, count = 24 * int(random.integers(days, 26)), 24 * days
        values[at : at + count] = values[at - back : at - back + count]
        return count

    return plant


def times_factor(factor: float, hours: int | None) -> Plant:
    """Some hours, or all that follow, in another unit."""

    def plant(values: Values, at: int, _: np.random.Generator) -> int:
        count = len(values) - at if hours is None else hours
        values[at : at + count] *= factor
        return count

    return plant


def later(shift: int, days: int) -> Plant:
    """Days of a clock that is off."""

    def plant(values: Values, at: int, _: np.random.Generator) -> int:
        count = min(24 * days, len(values) - at - 12)
        values[at : at + count] = values[np.arange(at, at + count) - shift].copy()
        return count

    return plant


def negative(values: Values, at: int, random: np.random.Generator) -> int:
    """One to three readings with the wrong sign."""
    count = int(random.integers(1, 4))
    values[at : at + count] = -np.abs(values[at : at + count]) - 0.01 * np.median(np.abs(values))
    return count


def spike(multiple: float) -> Plant:
    """One or two readings far above what is usual in the weeks around."""

    def plant(values: Values, at: int, random: np.random.Generator) -> int:
        count = int(random.integers(1, 3))
        values[at : at + count] = multiple * np.quantile(np.abs(values[at - 672 : at + 672]), 0.99)
        return count

    return plant


FAULTS: Final[Mapping[str, tuple[FindingKind, Plant]]] = {
    "error code 4294967.295": (FindingKind.ERROR_CODE, code(4294967.295)),
    "error code 65535": (FindingKind.ERROR_CODE, code(65535)),
    "error code 99999": (FindingKind.ERROR_CODE, code(99999)),
    "error code -9999": (FindingKind.ERROR_CODE, code(-9999)),
    "one copied day": (FindingKind.COPIED, copied(1)),
    "three copied days": (FindingKind.COPIED, copied(3)),
    "times 1000 for 6 h": (FindingKind.UNIT_JUMP, times_factor(1000, 6)),
    "times 1000 for 3 d": (FindingKind.UNIT_JUMP, times_factor(1000, 72)),
    "times 100 for 10 d": (FindingKind.UNIT_JUMP, times_factor(100, 240)),
    "times 1/1000 for 5 d": (FindingKind.UNIT_JUMP, times_factor(0.001, 120)),
    "times 1000 from then on": (FindingKind.UNIT_JUMP, times_factor(1000, None)),
    "times 1/1000 from then on": (FindingKind.UNIT_JUMP, times_factor(0.001, None)),
    "clock 6 h late for 14 d": (FindingKind.CLOCK_SHIFT, later(6, 14)),
    "clock 3 h early for 14 d": (FindingKind.CLOCK_SHIFT, later(-3, 14)),
    "clock 1 h late for 60 d": (FindingKind.CLOCK_SHIFT, later(1, 60)),
    "negative": (FindingKind.NEGATIVE, negative),
    "spike of 3 times the usual": (FindingKind.RAMP, spike(3)),
    "spike of 5 times the usual": (FindingKind.RAMP, spike(5)),
    "spike of 10 times the usual": (FindingKind.RAMP, spike(10)),
}


def found_share(series: list[Series], kind: FindingKind, plant: Plant, draws: int) -> tuple[int, int]:
    """How many of the planted faults were found by a finding of their kind, and how many there were."""
    found = 0
    for number, (times, values, meter) in enumerate(series):
        for draw in range(draws):
            random = np.random.default_rng([number, draw])
            start = int(random.integers(0, max(1, len(times) - _PART)))
            part = slice(start, start + _PART)
            broken, at = values[part].copy(), int(random.integers(_BEFORE, _PART - _AFTER))
            last = at + plant(broken, at, random) - 1
            found += any(
                finding.kind is kind
                and finding.first <= from_micros(times[part][last])
                and finding.last >= from_micros(times[part][at])
                for finding in suspects(times[part], broken, meter)
            )
    return found, len(series) * draws


def of_demo(folder: Path) -> tuple[dict[str, Series], dict[str, Series]]:
    """The demo's meters, and its weather stations."""
    meters: dict[str, Series] = {}
    stations: dict[str, Series] = {}
    for each in demo.prepare(folder):
        frame = pd.read_csv(each.file, parse_dates=["timestamp"])
        times = pd.DatetimeIndex(frame["timestamp"]).as_unit("us").asi8
        series = Series(times, frame.iloc[:, 1].to_numpy(np.float64), Meter(each.kind, each.timezone))
        (stations if each.role == "weather" else meters)[f"{each.tenant} {each.asset}"] = series
    return meters, stations


def of_file(file: Path, timezone: str) -> tuple[dict[str, Series], dict[str, Series]]:
    """The same of a file of public load."""
    load = read_load(file, timezone, "F")
    times = pd.DatetimeIndex(load.index).as_unit("us").asi8
    meters: dict[str, Series] = {}
    stations: dict[str, Series] = {}
    for name, column in load.items():
        present = column.notna().to_numpy()
        series = Series(times[present], column.to_numpy(np.float64)[present], Meter("electricity", timezone))
        (stations if name == TEMPERATURE else meters)[str(name)] = series
    return meters, stations


def report(title: str, meters: dict[str, Series], stations: dict[str, Series], draws: int) -> None:
    """Print what is found in the series as they are, and of what is planted in them."""
    print(f"## {title}\n")
    findings = {name: suspects(*series) for name, series in meters.items()}
    findings |= {name: frozen_weather(each.times, each.values) for name, each in stations.items()}
    years = {name: len(each.times) / _YEAR for name, each in (meters | stations).items()}
    total = sum(map(len, findings.values()))
    print(f"as they are: {total} findings in {sum(years.values()):.1f} meter-years")
    for name, of_meter in findings.items():
        if of_meter:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(f.kind for f in of_meter).items())
            print(f"- {name}: {kinds} ({len(of_meter) / years[name]:.2f} a year)")
    print("\n| planted | found |\n|---|---:|")
    for name, (kind, plant) in FAULTS.items():
        found, planted = found_share(list(meters.values()), kind, plant, draws)
        print(f"| {name} | {found} of {planted} |", flush=True)


def main() -> None:
    """Print a table of each set of meters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--load", type=Path, help="public load, beside the demo's meters")
    parser.add_argument("--timezone", default="America/New_York", help="of --load")
    parser.add_argument("--draws", type=int, default=3, help="faults of each kind a meter")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report("The demo's meters", *of_demo(Path(folder)), options.draws)
    if options.load:
        report(options.load.name, *of_file(options.load, options.timezone), options.draws)


if __name__ == "__main__":
    main()
