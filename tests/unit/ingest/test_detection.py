"""Gaps and stuck runs against plain loops, however the series is cut and in whatever order it arrives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.ingest.series import Series, expected, plain

from ai_hub.ingest import checks
from ai_hub.ingest.detection import BLOCK, Detector
from ai_hub.ingest.findings import DueCheck, Finding, reconcile
from ai_hub.ingest.options import FindingKind
from ai_hub.ingest.units import KindRule, rule_of
from ai_hub.times import SECOND, from_micros

KINDS = st.sampled_from(["electricity", "gas", "solar", "unknown"]).map(rule_of)
DAY = 86_400
START = 1_735_689_600  # 2025-01-01T00:00Z


@st.composite
def meters(draw: st.DrawFn) -> Series:
    """A meter with holes, values that stay, jitter, and stretches with another interval, over some weeks."""
    times: list[int] = []
    now = START + draw(st.integers(0, 40)) * DAY
    for _ in range(draw(st.integers(1, 4))):
        interval = draw(st.sampled_from([900, 3600, 7200, DAY, 3 * DAY]))
        jitter = draw(st.sampled_from([0, 0, 0, interval // 20, interval * 3]))
        count = draw(st.integers(1, 60))
        offsets = (
            draw(st.lists(st.integers(0, jitter), min_size=count, max_size=count)) if jitter else [0] * count
        )
        times += [now + i * interval + offset for i, offset in enumerate(offsets)]
        now = max(times) + draw(st.sampled_from([interval, interval, 2 * interval, 5 * DAY, 40 * DAY]))
    lost = draw(st.sets(st.integers(0, len(times) - 1), max_size=10))
    kept = sorted(set(times) - {times[i] for i in lost if len(lost) < len(times)})
    values = draw(st.lists(st.sampled_from([0.0, 0.0, 1.5, 2.0]), min_size=len(kept), max_size=len(kept)))
    stays = draw(st.lists(st.tuples(st.integers(0, len(kept) - 1), st.integers(2, 40)), max_size=3))
    for start, length in stays:
        values[start : start + length] = [values[start]] * len(values[start : start + length])
    return dict(zip(kept, values, strict=True))


def as_plain(found: list[Finding]) -> list[tuple[FindingKind, int, int, dict[str, object]]]:
    return [(each.kind, plain(each.first), plain(each.last), dict(each.detail)) for each in found]


class Memory(checks.Series):
    """The part of a database that holds one series."""

    def __init__(self, readings: Series) -> None:
        self.readings = readings

    def before(self, at: int) -> checks.Edge | None:
        time = max((t for t in self.readings if t * SECOND < at), default=None)
        return None if time is None else checks.Edge(time * SECOND, self.readings[time])

    def since(self, at: int) -> checks.Edge | None:
        time = min((t for t in self.readings if t * SECOND >= at), default=None)
        return None if time is None else checks.Edge(time * SECOND, self.readings[time])

    def _page(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        times = sorted(t for t in self.readings if start <= t * SECOND < end)[: checks.PAGE_ROWS]
        return (
            np.array(times, dtype=np.int64) * SECOND,
            np.array([self.readings[t] for t in times], dtype=np.float64),
        )


@given(meters(), KINDS, st.integers(1, 50))
def test_detector__any_series_in_any_parts__finds_what_the_plain_loops_find(
    readings: Series, rule: KindRule, page_rows: int
) -> None:
    detector = Detector(rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "PAGE_ROWS", page_rows)
        for times, values in Memory(readings).parts(0, 2**60):
            detector.feed(times, values)
    assert as_plain(detector.finish()) == expected(readings, rule)


@given(meters(), KINDS, st.data())
def test_check__readings_in_any_pieces_and_order__ends_with_the_findings_of_the_whole(
    readings: Series, rule: KindRule, data: st.DataObject
) -> None:
    """After every piece the open findings are those of what is stored, and none of them is new again."""
    times = list(readings)
    if data.draw(st.booleans()):
        times = data.draw(st.permutations(times))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(times)), max_size=5)))
    stored: Series = {}
    findings: list[Finding] = []
    for start, end in zip([0, *cuts], [*cuts, len(times)], strict=True):
        piece = times[start:end]
        if not piece:
            continue
        stored |= {time: readings[time] for time in piece}
        due = DueCheck("a", 1, *(from_micros(time * SECOND) for time in (min(piece), max(piece))))
        before = list(findings)
        for again in (False, True):
            checked = checks.examine(Memory(stored), due, rule)
            known = [each for each in findings if checks.is_within(each, checked.start, checked.end)]
            changes = reconcile(known, checked.findings)
            if again:
                assert (changes.upserted, changes.moved, changes.resolved) == ([], [], [])
            for each in changes.new:
                assert not any(each.overlaps(one) for one in before)
            gone = {(one.kind, one.first) for one in (*changes.moved, *changes.resolved, *changes.upserted)}
            findings = [each for each in findings if (each.kind, each.first) not in gone] + changes.upserted
        findings.sort(key=lambda each: (each.first, each.kind))
        assert as_plain(findings) == expected(stored, rule)


def found_in(readings: Series, kind: str = "electricity") -> list[Finding]:
    detector = Detector(rule_of(kind))
    for times, values in Memory(readings).parts(0, 2**60):
        detector.feed(times, values)
    return detector.finish()


def hourly(count: int, *, step: int = 3600) -> Series:
    return {START + i * step: float(i % 7) + 1 for i in range(count)}


def test_detector__missing_readings__are_counted_between_their_neighbours() -> None:
    readings = hourly(48)
    for i in (10, 11, 12, 30):
        del readings[START + i * 3600]
    gaps = found_in(readings)
    assert [(one.detail["missing"], one.detail["interval_seconds"]) for one in gaps] == [(3, 3600), (1, 3600)]
    assert gaps[0].first == datetime(2025, 1, 1, 9, tzinfo=UTC)
    assert gaps[0].last == datetime(2025, 1, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(("count", "is_found"), [(12, False), (13, True), (400, True)])
def test_detector__stuck_meter__is_found_from_twelve_hours_on(count: int, is_found: bool) -> None:
    readings = hourly(900)
    readings |= {START + (400 + i) * 3600: 9.5 for i in range(count)}
    stuck = found_in(readings)
    assert [one.detail for one in stuck] == (
        [{"value": 9.5, "readings": count, "hours": float(count - 1)}] if is_found else []
    )


@pytest.mark.parametrize(("kind", "is_found"), [("electricity", True), ("gas", False), ("solar", False)])
def test_detector__nothing_for_days__is_odd_only_where_something_always_runs(
    kind: str, is_found: bool
) -> None:
    readings = hourly(200) | {START + (50 + i) * 3600: 0.0 for i in range(72)}
    assert [one.kind for one in found_in(readings, kind)] == ([FindingKind.STUCK] if is_found else [])


def test_detector__stuck_meter_that_loses_readings__is_one_finding_but_not_over_a_long_silence() -> None:
    readings = dict.fromkeys(hourly(60), 4.0)
    for i in (7, 20, 21):
        del readings[START + i * 3600]
    assert [one.detail["readings"] for one in found_in(readings) if one.kind == "stuck"] == [57]
    for i in range(25, 40):
        del readings[START + i * 3600]
    assert [one.detail["readings"] for one in found_in(readings) if one.kind == "stuck"] == [22, 20]


def test_detector__interval_that_changes__is_no_series_of_gaps() -> None:
    readings = hourly(14 * 24)
    later = START + 14 * DAY
    readings |= {later + i * 900: float(i % 5) for i in range(14 * 96)}
    assert found_in(readings) == []


def test_detector__irregular_readings__have_a_gap_only_where_they_are_far_apart() -> None:
    times = np.cumsum(np.random.default_rng(3).integers(60, 7200, 300)) + START
    times[150:] += 3 * DAY
    found = found_in({int(t): float(i % 7) for i, t in enumerate(times)})
    assert [(one.kind, one.detail["missing"]) for one in found] == [(FindingKind.GAP, None)]


def test_detector__huge_block__does_not_need_a_page_to_hold_it() -> None:
    readings = hourly(3000, step=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "PAGE_ROWS", 7)
        parts = list(Memory(readings).parts(0, 2**60))
    assert sum(len(times) for times, _ in parts) == 3000
    for before, after in pairwise(parts):
        if len(before[0]) and len(after[0]):
            assert before[0][-1] // BLOCK < after[0][0] // BLOCK


def test_reconcile__gap_that_is_filled_in_the_middle__leaves_two_of_which_none_is_new() -> None:
    hour = timedelta(hours=1)
    start = datetime(2025, 1, 1, tzinfo=UTC)

    def gap(first: int, last: int) -> Finding:
        return Finding(
            FindingKind.GAP, start + first * hour, start + last * hour, {"missing": last - first - 1}
        )

    changes = reconcile([gap(0, 10)], [gap(0, 4), gap(6, 10)])
    assert (changes.upserted, changes.new, changes.moved, changes.resolved) == (
        [gap(0, 4), gap(6, 10)],
        [],
        [],
        [],
    )
    changes = reconcile([gap(0, 10)], [gap(4, 10)])
    assert (changes.upserted, changes.new, changes.moved) == ([gap(4, 10)], [], [gap(0, 10)])
    changes = reconcile([gap(0, 10)], [])
    assert changes.resolved == [gap(0, 10)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_check__stuck_for_months__is_one_finding_whatever_part_came_last(order: tuple[int, ...]) -> None:
    """Far longer than the blocks next to what is written."""
    parts = [{START + day * DAY: 3.0 for day in range(i * 100, i * 100 + 100)} for i in range(4)]
    stored: Series = {}
    for i in order:
        stored |= parts[i]
        due = DueCheck("a", 1, *(from_micros(time * SECOND) for time in (min(parts[i]), max(parts[i]))))
        checked = checks.examine(Memory(stored), due, rule_of("electricity"))
        around = [each for each in expected(stored, rule_of("electricity")) if each[0] is FindingKind.STUCK]
        stuck = [each for each in as_plain(checked.findings) if each[0] is FindingKind.STUCK]
        assert stuck
        assert set(map(str, stuck)) <= set(map(str, around))
    assert [each[3]["readings"] for each in stuck] == [400]
