"""Every zone of tzdata against zoneinfo: all instants of every local time around every clock change."""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo, _zoneinfo, available_timezones  # type: ignore[attr-defined]

import pandas as pd
import pytest

from ai_hub.ingest import timezones
from ai_hub.ingest.localizer import TimezoneLocalizer
from ai_hub.ingest.options import Ambiguous, TimestampFormat

YEARS = range(1990, 2041)
ALL = sorted(available_timezones() - {"Factory", "localtime", "posixrules"})
#: Clocks put back across midnight, by half an hour, skipped days, odd offsets, negative summer time.
ODD = {
    *("America/Havana", "America/Sao_Paulo", "America/Asuncion", "America/Santiago", "America/Nuuk"),
    *(
        "America/St_Johns",
        "America/Godthab",
        "America/Scoresbysund",
        "Asia/Beirut",
        "Asia/Gaza",
        "Asia/Amman",
    ),
    *("Africa/Cairo", "Africa/Casablanca", "Atlantic/Azores", "Australia/Lord_Howe", "Antarctica/Troll"),
    *("Europe/Dublin", "Europe/Berlin", "Europe/London", "Asia/Tehran", "Asia/Kathmandu", "Asia/Pyongyang"),
    *("Pacific/Apia", "Pacific/Fakaofo", "Pacific/Kiritimati", "Pacific/Kwajalein", "Pacific/Chatham"),
    *("America/Caracas", "America/New_York", "America/Metlakatla", "Antarctica/Casey", "Asia/Manila"),
}
LONG_RUN = os.environ.get("AI_HUB_EVERY_ZONE") == "1"
SAMPLE = ALL if LONG_RUN else sorted(ODD | set(random.Random(13).sample(ALL, 12)))  # noqa: S311 - a fixed sample


class Change(NamedTuple):
    at: int
    before: int
    after: int


def changes_of_zoneinfo(zone: str) -> list[Change]:
    """From the tables inside zoneinfo's own pure Python class: seconds since 1970, offsets around them."""
    reader = _zoneinfo.ZoneInfo.no_cache(zone)
    seconds = set(reader._trans_utc)
    if hasattr(reader._tz_after, "transitions"):
        for year in range(YEARS.start - 1, YEARS.stop + 1):
            for local, offset in zip(
                reader._tz_after.transitions(year),
                (reader._tz_after.std.utcoff, reader._tz_after.dst.utcoff),
                strict=True,
            ):
                seconds.add(int(local - offset.total_seconds()))
    actual = []
    for second in sorted(seconds):
        before, after = (
            int(
                (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
                .astimezone(ZoneInfo(zone))
                .utcoffset()
                .total_seconds()
            )  # type: ignore[union-attr]
            for s in (second - 1, second)
        )
        if before != after and YEARS.start <= datetime.fromtimestamp(second, UTC).year < YEARS.stop:
            actual.append(Change(second, before, after))
    return actual


def oracle(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """Every instant at which clocks in `zone` showed `wall`."""
    actual = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(t for t in actual if t.astimezone(zone).replace(tzinfo=None) == wall)


def walls_around(changes: list[Change]) -> list[datetime]:
    """Local times on every edge of what is repeated or skipped, and within it."""
    walls = {datetime(year, month, 1) for year in YEARS for month in (1, 7)}  # noqa: DTZ001 - on a clock
    for change in changes:
        edges = [change.at + change.before, change.at + change.after]
        middle = sum(edges) // 2
        for second in (*edges, middle):
            for step in (-3600, -1, 0, 1, 1799, 3600):
                walls.add(datetime(1970, 1, 1) + timedelta(seconds=second + step))  # noqa: DTZ001 - on a clock
    return sorted(walls)


@pytest.mark.parametrize("part", range(4))
def test_localize__every_clock_change_of_a_zone__is_that_of_zoneinfo(part: int) -> None:
    """All zones with AI_HUB_EVERY_ZONE=1, else the odd ones and a fixed sample."""
    for zone in SAMPLE[part::4]:
        changes = changes_of_zoneinfo(zone)
        actual = timezones.transitions(zone, YEARS.start, YEARS.stop - 1)
        inside = [
            Change(at // 10**6, before // 10**6, (before + delta) // 10**6)
            for at, before, delta in zip(*(column.tolist() for column in actual), strict=True)
            if YEARS.start <= datetime.fromtimestamp(at // 10**6, UTC).year < YEARS.stop
        ]
        assert inside == changes, zone
        walls = walls_around(changes)
        earliest, latest = timezones.localize(pd.Series(walls).astype("datetime64[us]"), zone)
        expected = [oracle(wall, ZoneInfo(zone)) for wall in walls]
        missing = [not instants for instants in expected]
        assert earliest.isna().tolist() == latest.isna().tolist() == missing, zone
        assert earliest.dropna().tolist() == [instants[0] for instants in expected if instants], zone
        assert latest.dropna().tolist() == [instants[-1] for instants in expected if instants], zone


def test_place__clock_put_back_across_midnight__gives_both_passes() -> None:
    walls = [
        f"2026-{day} {time}"
        for day, time in (
            ("10-31", "23:00"),
            ("10-31", "23:30"),
            ("11-01", "00:00"),
            ("11-01", "00:30"),
            ("11-01", "00:00"),
            ("11-01", "00:30"),
            ("11-01", "01:00"),
        )
    ]
    zone_localizer = TimezoneLocalizer(TimestampFormat(), Ambiguous.INFER)
    column = pd.Series(walls)
    utc, reason = zone_localizer.localize(
        column, pd.Series("a", index=column.index), pd.Series("America/Havana", index=column.index)
    )
    settled, why = zone_localizer.resolve_pending()
    utc.loc[settled.index] = settled
    assert set(reason) | set(why) == {""}
    assert utc.tolist() == pd.date_range("2026-11-01T03:00Z", periods=7, freq="30min").tolist()


@pytest.mark.parametrize("ends", [False, True])
def test_place__several_clock_changes_in_one_file__are_told_apart(ends: bool) -> None:
    instants = pd.date_range("2023-10-01T00:00Z", "2025-11-30T00:00Z", freq="15min")
    local = instants.tz_convert("Europe/Berlin").strftime("%Y-%m-%d %H:%M")
    column = pd.Series(local, dtype=object)
    ids, names = (pd.Series(text, index=column.index) for text in ("a", "Europe/Berlin"))
    zone_localizer = TimezoneLocalizer(TimestampFormat(), Ambiguous.INFER, ends=ends)
    utc, reason = zone_localizer.localize(column, ids, names)
    settled, why = zone_localizer.resolve_pending()
    utc.loc[settled.index] = settled
    assert set(reason) | set(why) == {""}
    assert utc.tolist() == instants.tolist()


def test_localize__years_without_any_clock_change_or_rows__are_read() -> None:
    assert timezones.localize(pd.Series([], dtype="datetime64[us]"), "Europe/Berlin")[0].empty
    (instant,), _ = timezones.localize(pd.Series([pd.Timestamp("2026-05-01 12:00")]), "Asia/Kolkata")
    assert instant == pd.Timestamp("2026-05-01 06:30Z")


def test_transitions__hours_between_changes__have_one_offset() -> None:
    """Probing every six hours skips nothing: a zone's offset at random instants follows from the changes."""
    pick = random.Random(13)  # noqa: S311 - a fixed sample
    for zone in ODD:
        actual = timezones.transitions(zone, YEARS.start, YEARS.stop - 1)
        offsets = (
            [*actual.before.tolist(), int(actual.before[-1] + actual.delta[-1])] if len(actual.at) else []
        )
        for _ in range(200):
            instant = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=pick.randrange(50 * 365 * 86_400))
            offset = instant.astimezone(ZoneInfo(zone)).utcoffset()
            if offsets:
                index = bisect_right(actual.at.tolist(), int(instant.timestamp() * 10**6))
                assert offset == timedelta(microseconds=offsets[index])
