"""Timestamps against `datetime` and `zoneinfo`, one value at a time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.ingest import localizer, timestamps, timezones
from ai_hub.ingest.localizer import TimezoneLocalizer
from ai_hub.ingest.options import Ambiguous, Epoch, TimestampFormat

ISO = TimestampFormat()
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "America/Havana",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "UTC",
)
LOCAL_TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2036, 1, 1))  # noqa: DTZ001 - local times have no zone
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timedelta(minutes=minutes))


def oracle(wall: datetime, zone: str) -> list[datetime]:
    """Every instant at which clocks in `zone` showed `wall`."""
    actual = {wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(t for t in actual if t.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wall)


def offset_text(offset: timedelta) -> str:
    minutes = round(offset / timedelta(minutes=1))
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


@given(st.lists(st.tuples(LOCAL_TIMES, OFFSETS, st.sampled_from("T ")), min_size=1, max_size=30))
def test_parse__times_with_offsets__are_the_instants_datetime_reads(
    rows: list[tuple[datetime, timedelta, str]],
) -> None:
    texts = [wall.isoformat(sep=sep) + offset_text(offset) for wall, offset, sep in rows]
    parsed = timestamps.parse(pd.Series(texts), ISO)
    assert not parsed.is_local.any()
    assert list(parsed.wall.dt.tz_localize("UTC")) == [datetime.fromisoformat(text) for text in texts]
    assert set(parsed.reason) == {""}


@given(st.lists(LOCAL_TIMES, min_size=1, max_size=40), st.sampled_from(ZONES))
def test_localize__any_local_time__gives_the_instants_zoneinfo_gives(
    walls: list[datetime], zone: str
) -> None:
    earliest, latest = timezones.localize(pd.Series(walls).astype("datetime64[us]"), zone)
    for wall, first, last in zip(walls, earliest, latest, strict=True):
        instants = oracle(wall, zone)
        if instants:
            assert [first, last] == [instants[0], instants[-1]]
        else:
            assert pd.isna(first)
            assert pd.isna(last)


def clock_changes(zone: str, years: range) -> list[datetime]:
    """Hours in UTC in which the zone's offset changes."""
    hours = pd.date_range(f"{years.start}-01-01", f"{years.stop}-01-01", freq="h", tz="UTC")
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours.to_pydatetime()]
    return [hours[i].to_pydatetime() for i in range(1, len(hours)) if offsets[i] != offsets[i - 1]]


CHANGES = {zone: clock_changes(zone, range(2023, 2025)) for zone in ("Europe/Berlin", "America/New_York")}
STEPS = st.sampled_from([timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1)])


@given(
    zone=st.sampled_from(sorted(CHANGES)),
    change=st.integers(0, 3),
    step=STEPS,
    before=st.integers(0, 12),
    after=st.integers(5, 20),
    newest_first=st.booleans(),
    cuts=st.lists(st.integers(1, 60), max_size=3),
)
def test_place__complete_local_series_over_a_clock_change__comes_back_whole(
    zone: str,
    change: int,
    step: timedelta,
    before: int,
    after: int,
    newest_first: bool,
    cuts: list[int],
) -> None:
    """Two assets side by side, read in blocks cut anywhere, oldest or newest row first."""
    middle = CHANGES[zone][change]
    start = middle - timedelta(hours=2) - before * step
    instants = [start + i * step for i in range(before + int(timedelta(hours=4) / step) + after)]
    if newest_first:
        instants.reverse()
    rows = pd.DataFrame(
        [(asset, instant) for instant in instants for asset in ("a", "b")], columns=["asset", "utc"]
    )
    rows["text"] = [t.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M") for t in rows["utc"]]
    zone_localizer = TimezoneLocalizer(ISO, Ambiguous.INFER)
    placed = []
    for start_row, end_row in zip([0, *sorted(cuts)], [*sorted(cuts), len(rows)], strict=True):
        block = rows.iloc[start_row:end_row]
        utc, reason = zone_localizer.localize(
            block["text"], block["asset"], pd.Series(zone, index=block.index)
        )
        assert set(reason) <= {""}
        placed.append(utc.dropna())
    utc, reason = zone_localizer.resolve_pending()
    assert set(reason) <= {""}
    together = pd.concat([*placed, utc] if len(utc) else placed).sort_index()
    assert list(together) == list(rows["utc"])


def place(texts: list[str], zone: str, policy: Ambiguous = Ambiguous.INFER) -> tuple[list[str], list[str]]:
    zone_localizer = TimezoneLocalizer(ISO, policy)
    column = pd.Series(texts)
    utc, reason = zone_localizer.localize(
        column, pd.Series("a", index=column.index), pd.Series(zone, index=column.index)
    )
    later, why = zone_localizer.resolve_pending()
    utc.loc[later.index] = later
    reason.loc[why.index] = why
    return ["" if pd.isna(t) else t.strftime("%H:%M") for t in utc], list(reason)


AUTUMN_BERLIN = ["2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 03:00"]


def test_place__hour_given_once_where_it_occurred_twice__is_rejected_not_guessed() -> None:
    utc, reason = place(AUTUMN_BERLIN, "Europe/Berlin")
    assert utc == ["23:00", "", "02:00"]
    assert reason == ["", localizer.AMBIGUOUS, ""]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Ambiguous.EARLIEST, "00:00"), (Ambiguous.LATEST, "01:00"), (Ambiguous.REJECT, "")],
)
def test_place__hour_that_occurred_twice__follows_the_policy(policy: Ambiguous, expected: str) -> None:
    utc, reason = place(AUTUMN_BERLIN, "Europe/Berlin", policy)
    assert utc[1] == expected
    assert (reason[1] == localizer.AMBIGUOUS) == (expected == "")


def test_place__quarter_hours_with_a_repeated_row__are_not_taken_for_a_second_pass() -> None:
    texts = [f"2024-10-27 02:{minute}" for minute in ("00", "00", "15", "30", "45")]
    utc, reason = place(texts, "Europe/Berlin")
    assert set(utc) == {""}
    assert set(reason) == {localizer.AMBIGUOUS}


def test_place__local_time_that_never_occurred__is_rejected() -> None:
    utc, reason = place(["2024-03-10 01:30", "2024-03-10 02:30", "2024-03-10 03:30"], "America/New_York")
    assert utc == ["06:30", "", "07:30"]
    assert reason[1] == localizer.NONEXISTENT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", timestamps.MISSING),
        ("   ", timestamps.MISSING),
        (None, timestamps.MISSING),
        ("now", timestamps.UNREADABLE),
        ("2024-02-30", timestamps.UNREADABLE),
        ("2024-01-01T24:01", timestamps.UNREADABLE),
        ("2024-01-01T10:00+25:00", timestamps.UNREADABLE),
        ("01/02/2024 10:00", timestamps.DAY_OR_MONTH),
        ("1700000000", timestamps.NUMBER),
        ("1700000000.5", timestamps.NUMBER),
        ("1800-01-01", timestamps.OUT_OF_RANGE),
        ("1677-09-21T00:12:44+23:59", timestamps.OUT_OF_RANGE),
        ("9999-12-31T23:59:59-14:00", timestamps.UNREADABLE),
    ],
)
def test_parse__unusable_text__has_a_reason_and_no_instant(text: str | None, reason: str) -> None:
    parsed = timestamps.parse(pd.Series([text, "2024-01-01"]), ISO)
    assert list(parsed.reason) == [reason, ""]
    assert pd.isna(parsed.wall[0])


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20))
def test_parse__any_text__is_read_or_refused(texts: list[str]) -> None:
    parsed = timestamps.parse(pd.Series(texts, dtype=object), ISO)
    assert ((parsed.reason == "") == parsed.wall.notna()).all()


def test_parse__iso_variants__agree() -> None:
    variants = [
        "2024-05-06T07:08:09Z",
        "2024-05-06 07:08:09+00:00",
        "20240506T070809Z",
        "2024-05-06T07:08:09.000000+0000",
        " 2024-05-06T09:08:09 +02 ",
    ]
    assert set(timestamps.parse(pd.Series(variants), ISO).wall) == {pd.Timestamp("2024-05-06 07:08:09")}


def test_parse__with_a_format__reads_it_as_local_time() -> None:
    parsed = timestamps.parse(
        pd.Series(["31.12.2024 23:15", "2024-12-31"]), TimestampFormat("%d.%m.%Y %H:%M")
    )
    assert parsed.wall[0] == pd.Timestamp("2024-12-31 23:15")
    assert parsed.is_local[0]
    assert parsed.reason[1] == timestamps.UNREADABLE


@pytest.mark.parametrize(("unit", "factor"), [(Epoch.SECONDS, 1), (Epoch.MILLISECONDS, 1000)])
def test_parse__epoch_numbers_that_are_named__are_utc(unit: Epoch, factor: int) -> None:
    instant = datetime(2024, 5, 6, 7, tzinfo=UTC)
    number = int(instant.timestamp()) * factor
    for column in (pd.Series([number]), pd.Series([str(number)])):
        parsed = timestamps.parse(column, TimestampFormat(None, unit))
        assert parsed.wall.dt.tz_localize("UTC")[0] == instant


def test_parse__typed_columns__keep_their_instant_or_stay_local() -> None:
    aware = pd.Series(pd.to_datetime(["2024-05-06T07:00+02:00"])).astype("datetime64[ms, Europe/Berlin]")
    assert timestamps.parse(aware, ISO).wall[0] == pd.Timestamp("2024-05-06 05:00")
    naive = pd.Series([pd.Timestamp("2024-05-06 07:00"), pd.NaT])
    assert list(timestamps.parse(naive, ISO).is_local) == [True, False]
    dates = timestamps.parse(pd.Series([date(2024, 5, 6), None]), ISO)
    assert dates.wall[0] == pd.Timestamp("2024-05-06")
    assert dates.reason[1] == timestamps.MISSING
