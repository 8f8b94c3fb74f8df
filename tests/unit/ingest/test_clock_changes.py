"""Clock changes against `zoneinfo`, and which of them a file goes through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from ai_hub.ingest.localizer import TimezoneLocalizer
from ai_hub.ingest.options import Ambiguous, FindingKind, Nonexistent, TimestampFormat
from ai_hub.ingest.timezones import transitions
from ai_hub.times import from_micros


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia", "UTC"],
)
def test_transitions__of_some_years__are_those_of_zoneinfo(zone: str) -> None:
    def offset(instant: datetime) -> timedelta | None:
        return instant.astimezone(ZoneInfo(zone)).utcoffset()

    start = datetime(2010, 1, 1, tzinfo=UTC)
    steps = [start + i * timedelta(minutes=30) for i in range(48 * 365 * 3)]
    changes = [after for before, after in pairwise(steps) if offset(before) != offset(after)]
    actual = transitions(zone, 2010, 2012)
    got = [from_micros(at) for at in actual.at if from_micros(at) < steps[-1]]
    assert got == changes
    minute = timedelta(minutes=1)
    for at, before, delta in zip(got, actual.before, actual.delta, strict=False):
        assert offset(at - minute) == timedelta(microseconds=int(before))
        assert offset(at) == timedelta(microseconds=int(before + delta))


def place(
    texts: list[str],
    *,
    ambiguous: Ambiguous = Ambiguous.INFER,
    nonexistent: Nonexistent = Nonexistent.REJECT,
    cut: int = 0,
) -> tuple[TimezoneLocalizer, pd.Series[pd.Timestamp]]:
    zone_localizer = TimezoneLocalizer(TimestampFormat(), ambiguous, nonexistent)
    column = pd.Series(texts)
    placed = []
    for part in (column[:cut], column[cut:]):
        utc, _ = zone_localizer.localize(
            part, pd.Series("a", index=part.index), pd.Series("Europe/Berlin", index=part.index)
        )
        placed.append(utc)
    settled, _ = zone_localizer.resolve_pending()
    return zone_localizer, pd.concat([*(item for item in placed if len(item)), settled])


def seen(zone_localizer: TimezoneLocalizer) -> list[tuple[FindingKind, str, str, int, int]]:
    return [
        (
            one.kind,
            one.detail["local_from"],
            one.detail["local_until"],
            one.detail["rows"],
            one.detail["rejected"],
        )
        for _, one in zone_localizer.changes.findings()
    ]


SPRING = ["2025-03-30 01:30", "2025-03-30 03:00"]
SKIPPED = (FindingKind.SKIPPED_HOUR, "2025-03-30 02:00", "2025-03-30 03:00")
REPEATED = (FindingKind.REPEATED_HOUR, "2025-10-26 02:00", "2025-10-26 03:00")


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_findings__rows_on_both_sides_of_a_skipped_hour__name_it_once(cut: int) -> None:
    assert seen(place(SPRING, cut=cut)[0]) == [(*SKIPPED, 0, 0)]


def test_findings__rows_that_claim_a_skipped_hour__are_counted() -> None:
    texts = [SPRING[0], "2025-03-30 02:00", "2025-03-30 02:59:59", SPRING[1]]
    assert seen(place(texts)[0]) == [(*SKIPPED, 2, 2)]
    assert seen(place(texts[1:2])[0]) == [(*SKIPPED, 1, 1)]


def test_place__skipped_hour_shifted_forward__is_what_a_clock_without_the_change_shows() -> None:
    zone_localizer, utc = place(["2025-03-30 02:15"], nonexistent=Nonexistent.SHIFT_FORWARD)
    assert list(utc) == [pd.Timestamp("2025-03-30 01:15", tz="UTC")]
    assert seen(zone_localizer) == [(*SKIPPED, 1, 0)]


@pytest.mark.parametrize("texts", [["2025-03-29 01:00"], ["2025-03-28", "2025-04-02"], ["2025-07-01"]])
def test_findings__rows_on_one_side_or_far_from_it__name_none(texts: list[str]) -> None:
    assert seen(place(texts)[0]) == []


@pytest.mark.parametrize(
    ("policy", "rejected"),
    [(Ambiguous.INFER, 0), (Ambiguous.EARLIEST, 0), (Ambiguous.LATEST, 0), (Ambiguous.REJECT, 4)],
)
def test_findings__repeated_hour__says_how_many_rows_are_in_it(policy: Ambiguous, rejected: int) -> None:
    texts = [f"2025-10-26 {hour}" for hour in ("01:30", "02:00", "02:30", "02:00", "02:30", "03:00")]
    assert seen(place(texts, ambiguous=policy)[0]) == [(*REPEATED, 4, rejected)]


def test_findings__repeated_hour_that_is_there_once__is_counted_as_rejected() -> None:
    texts = [f"2025-10-26 {hour}" for hour in ("01:30", "02:00", "02:30", "03:00")]
    assert seen(place(texts, cut=2)[0]) == [(*REPEATED, 2, 2)]
