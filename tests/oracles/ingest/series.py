"""Gaps and stuck runs, the slow and obvious way: plain Python loops over the whole series."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from ai_hub.ingest.options import FindingKind

if TYPE_CHECKING:
    from datetime import datetime

    from ai_hub.ingest.units import KindRule

Series: TypeAlias = "dict[int, float]"
Found: TypeAlias = "tuple[FindingKind, int, int, dict[str, Any]]"
WEEK = 7 * 86_400


def expected(series: Series, rule: KindRule) -> list[Found]:
    """Findings of readings by whole second."""
    times = sorted(series)
    gaps = _gaps(times)
    found = list(gaps.values())
    run: list[int] = []
    for time in [*times, None]:
        if run and time is not None and series[time] == series[run[-1]]:
            broken = (run[-1], time) in gaps and time - run[-1] > rule.stuck_after.total_seconds()
            if not broken:
                run.append(time)
                continue
        if run and _is_stuck(run, series[run[0]], rule):
            detail = {
                "value": series[run[0]],
                "readings": len(run),
                "hours": round((run[-1] - run[0]) / 3600, 2),
            }
            found.append((FindingKind.STUCK, run[0], run[-1], detail))
        run = [] if time is None else [time]
    return sorted(found, key=lambda each: (each[1], each[0]))


def _is_stuck(run: list[int], value: float, rule: KindRule) -> bool:
    if rule.may_idle and value == 0:
        return False
    return len(run) >= 4 and run[-1] - run[0] >= rule.stuck_after.total_seconds()


def _gaps(times: list[int]) -> dict[tuple[int, int], Found]:
    blocks: dict[int, list[int]] = defaultdict(list)
    for time in times:
        blocks[time // WEEK].append(time)
    cadences = {block: _cadence(of_block) for block, of_block in blocks.items()}
    found = {}
    for before, after in pairwise(times):
        here = cadences[before // WEEK] or cadences[after // WEEK]
        if here is None:
            continue
        interval, longest = here
        if after - before > longest and not _is_steady(blocks, before, after):
            missing = round((after - before) / interval) - 1 if interval else None
            detail = {"missing": missing, "interval_seconds": interval}
            found[before, after] = (FindingKind.GAP, before, after, detail)
    return found


def _cadence(times: list[int]) -> tuple[int | None, float] | None:
    steps = [after - before for before, after in pairwise(times)]
    if len(steps) < 3:
        return None
    counts = Counter(steps)
    commonest = min(step for step in counts if counts[step] == max(counts.values()))
    near = [step for step in steps if abs(step - commonest) <= 0.1 * commonest]
    if 2 * len(near) >= len(steps):
        return commonest, 1.5 * commonest
    return None, 10 * statistics.median(steps)


def _is_steady(blocks: dict[int, list[int]], before: int, after: int) -> bool:
    block = before // WEEK
    return block == after // WEEK and _in_stretch(blocks[block], before)


def _in_stretch(times: list[int], before: int) -> bool:
    """Whether the step from `before` is one of twelve or more equal ones of its block."""
    steps = [after - start for start, after in pairwise(times)]
    at = times.index(before)
    length = 1
    for direction in (-1, 1):
        other = at + direction
        while 0 <= other < len(steps) and steps[other] == steps[at]:
            length += 1
            other += direction
    return length >= 12


def plain(instant: datetime) -> int:
    """Seconds since 1970."""
    return round(instant.timestamp())
