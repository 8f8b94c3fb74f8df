"""In which week findings about models see a fault of a meter, and how many weeks without one have some.

    [AI_HUB_BENCH_DSN=postgresql://…] python -m benchmarks.alarms --load FILE

FILE is that of `benchmarks.public_load`. Each fault is in all meters of a tenant of its own, in the last ten
weeks. The product's own commands ingest the meters, fit a model to the 52 weeks before the tested ones,
write its forecasts to the log and score them. Each meter with a fault is then judged once a week, among the
others as they are and by itself. The forecasts are of role backtest, as their issues lie in the past; live
ones are judged by the same function.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ai_hub.db import connect
from ai_hub.forecasting.findings import Kind, Sums, Thresholds, judge
from ai_hub.forecasting.issues import IssueRule, parse_duration
from benchmarks import public_load, servers
from benchmarks.public_load import TEMPERATURE, Plan, read_load
from benchmarks.service_site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    Days = Mapping[date, Sums]

WEEK: Final = timedelta(weeks=1)
#: With a fault, at the end.
_FAULTY_WEEKS: Final = 10
FAULTS: Final[Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "healthy": lambda load: load,
    "twice": lambda load: load * 2,
    "a fifth more": lambda load: load * 1.2,
    "clock 6 h ahead": lambda load: load.shift(6),
}
_SCORES: Final = """
SELECT asset_id, day, sum(hours)::float8, sum(absolute), sum(error), sum(banded)::float8,
    sum(covered)::float8, sum(actual)
FROM forecast_scores WHERE tenant_id = %s AND role = 'backtest' GROUP BY asset_id, day
"""


def with_fault(load: pd.DataFrame, fault: str, start: pd.Timestamp) -> pd.DataFrame:
    """The hours from `start` on with the fault, in all meters."""
    changed = load.copy()
    meters = [name for name in load if name != TEMPERATURE]
    changed.loc[start:, meters] = FAULTS[fault](load[meters]).loc[start:]
    return changed


def weekly(meters: Mapping[str, Days], first: date, weeks: int) -> list[set[str]]:
    """What is found after each week, the first of which begins on `first`: meters, and kinds of the model."""
    opened: dict[Kind, date] = {}
    named: set[str] = set()
    found = []
    for number in range(1, weeks + 1):
        today = first + number * WEEK
        known = {
            meter: {day: sums for day, sums in days.items() if day < today} for meter, days in meters.items()
        }
        judged = judge(
            "ahead", known, Thresholds(), today=today, settled_before=today, opened=opened, named=named
        )
        for kind, finding in judged.items():
            if finding is None:
                opened.pop(kind, None)
            else:
                opened.setdefault(kind, finding.since.date())
        of_meters = judged.get(Kind.METERS)
        named = {each["asset_id"] for each in of_meters.detail["meters"]} if of_meters else set()
        found.append({str(kind) for kind in opened} | named)
    return found


def measure(site: Site, load: pd.DataFrame, plan: Plan, end: pd.Timestamp) -> dict[str, dict[str, Days]]:
    """Scores by fault, meter and day."""
    for number, fault in enumerate(FAULTS):
        changed = with_fault(load, fault, end - _FAULTY_WEEKS * WEEK)
        public_load.ingest(site, changed, plan, tenant=f"fault-{number}")
    site.run("ai-hub", "refresh")
    site.apply()
    scores: dict[str, dict[str, Days]] = {}
    for number, fault in enumerate(FAULTS):
        public_load.backtest(site, plan, "median", "--record", tenant=f"fault-{number}")
        site.run("ai-hub", "refresh")
        by_meter: dict[str, dict[date, Sums]] = defaultdict(dict)
        with connect(site.variables["TIMESCALE_DSN"]) as connection:
            for meter, day, *sums in connection.execute(_SCORES, [f"fault-{number}"]):
                by_meter[meter][day] = Sums(*sums)
        scores[fault] = dict(by_meter)
    return scores


def found_in(after_weeks: Sequence[set[str]], what: set[str]) -> int | None:
    """In which of some weeks something of `what` is found first, from 1 on."""
    return next((number for number, found in enumerate(after_weeks, 1) if found & what), None)


def report(
    scores: Mapping[str, Mapping[str, Days]], weeks: int, end: date, broken: Mapping[str, date]
) -> str:
    """Markdown: false findings, then a line a fault; `broken` have one of their own, and since when."""
    first, healthy = end - weeks * WEEK, scores["healthy"]
    meters = [meter for meter in healthy if meter not in broken]
    after = weekly(healthy, first, weeks)
    judged = after[Thresholds().weeks :]
    false = sum(len(found & set(meters)) for found in judged)
    counts = Counter(kind for found in judged for kind in found - set(healthy))
    lines = [f"{len(judged)} weeks of {len(healthy)} meters: findings of the model in {dict(counts)}"]
    lines.append(f"{len(judged) * len(meters)} weeks of meters as they are: {false} found")
    alone = {meter: weekly({meter: healthy[meter]}, first, weeks) for meter in meters}
    of_alone = Counter(
        kind for each in alone.values() for found in each[Thresholds().weeks :] for kind in found
    )
    lines += [
        f"alone: {dict(of_alone)}",
        "",
        f"| fault in one meter | meters | of {len(healthy)}: week 1 | in ten | alone: week 1 | in ten |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for fault, of_meters in scores.items():
        if fault == "healthy":
            continue
        of_model, of_itself = [], []
        for meter in meters:
            days = of_meters[meter]
            together = weekly({**healthy, meter: days}, first, weeks)
            of_model.append(found_in(together[-_FAULTY_WEEKS:], {meter}))
            alone_too = weekly({meter: days}, first, weeks)
            of_itself.append(found_in(alone_too[-_FAULTY_WEEKS:], {Kind.ERROR, Kind.BIAS}))
        cells = [fault, str(len(meters)), *_counts(of_model), *_counts(of_itself)]
        lines.append(f"| {' | '.join(cells)} |")
    for meter, day in broken.items():
        since = after[(day - first).days // 7 :]
        lines += ["", f"{meter}, broken since {day}: found in week {found_in(since, {meter})}"]
    return "\n".join(lines)


def _counts(weeks: Sequence[int | None]) -> tuple[str, str]:
    """How many were found in the first week, and in any."""
    return str(weeks.count(1)), str(len(weeks) - weeks.count(None))


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alarms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--load", type=Path, required=True, help="CSV file of hours")
    parser.add_argument("--broken", action="append", default=[], metavar="METER=DAY", help="may be repeated")
    parser.add_argument("--test-weeks", type=int, default=52)
    public_load.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    servers.clean_up_when_terminated()
    load = read_load(options.load, options.timezone, options.temperature_unit)
    rule = IssueRule.parse(f"D-1 10:00 {options.timezone}")
    weeks = options.test_weeks
    plan = Plan(rule, parse_duration("48h", "--late"), 52 + weeks, weeks, weeks)
    broken = {
        name: date.fromisoformat(day) for name, _, day in (each.partition("=") for each in options.broken)
    }
    end = load.drop(columns=TEMPERATURE).dropna(how="all").index[-1].floor("D")
    with (
        tempfile.TemporaryDirectory(prefix="alarms-") as name,
        servers.databases(options.server, ("alarms",)) as databases,
        servers.valkey() as valkey,
    ):
        variables = {
            "TIMESCALE_DSN": databases["alarms"].dsn,
            "REDIS_URL": f"redis://{servers.HOST}:{valkey.port}/0",
        }
        scores = measure(Site(Path(name), variables), load, plan, end)
    if options.output:
        plain = {
            fault: {
                meter: {f"{day}": sums for day, sums in days.items()} for meter, days in of_meters.items()
            }
            for fault, of_meters in scores.items()
        }
        options.output.write_text(json.dumps(plain))
    print(report(scores, weeks, end.date(), broken))


if __name__ == "__main__":
    main()
