"""A year of quarter hours in local time with every oddity a meter is known for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from oracles.features import Asset, same

if TYPE_CHECKING:
    from conftest import AiHub, CsvFile, EverythingOf, ReadingsOf, Rows

BERLIN = ZoneInfo("Europe/Berlin")
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)
FIRST = datetime(2025, 1, 1, tzinfo=BERLIN).astimezone(UTC)
YEAR = [FIRST + i * QUARTER for i in range(365 * 96)]
FORWARD = datetime(2025, 3, 30, 1, tzinfo=UTC)
BACK = datetime(2025, 10, 26, 1, tzinfo=UTC)
STUCK_DAY = datetime(2025, 6, 10, tzinfo=BERLIN).astimezone(UTC)
UNREADABLE, TOO_LARGE = datetime(2025, 5, 5, 10, tzinfo=UTC), datetime(2025, 8, 8, 10, tzinfo=UTC)


@dataclass
class Meter:
    """What a meter measured, and the lines its logger wrote."""

    name: str
    readings: dict[datetime, float] = field(default_factory=dict)
    lost: set[datetime] = field(default_factory=set)
    lines: list[tuple[str, object, str]] = field(default_factory=list)

    def write(self, at: datetime, value: object) -> None:
        self.lines.append((at.astimezone(BERLIN).strftime("%Y-%m-%d %H:%M"), value, self.name))

    def gaps(self) -> list[tuple[str, str, str, int]]:
        """Adjacent lost readings are one gap, between the readings on both sides."""
        gaps, missing, before = [], 0, FIRST
        for at in YEAR:
            if at in self.lost:
                missing += 1
                continue
            if missing:
                gaps.append((self.name, before.isoformat(), at.isoformat(), missing))
            missing, before = 0, at
        return gaps


def meter(name: str, seed: int, *, odd: bool) -> Meter:
    random = np.random.default_rng(seed)
    made = Meter(name)
    # people go by the clock of the wall
    hours = np.array([at.astimezone(BERLIN).hour for at in YEAR])
    values = (2 + np.sin(hours / 24 * 2 * np.pi) + random.random(len(YEAR))).round(4).tolist()
    lost = set((1 + random.choice(len(YEAR) - 2, len(YEAR) // 100, replace=False)).tolist())
    for i, (at, measured) in enumerate(zip(YEAR, values, strict=True)):
        value = 1.25 if odd and STUCK_DAY <= at < STUCK_DAY + DAY else measured
        if i in lost:
            made.lost.add(at)
        elif odd and at in {UNREADABLE, TOO_LARGE}:
            made.lost.add(at)
            made.write(at, "broken" if at == UNREADABLE else 5.6)
        else:
            made.readings[at] = value
            made.write(at, value)
    if odd:
        claim = next(i for i, line in enumerate(made.lines) if line[0] >= "2025-03-30 03")
        made.lines[claim:claim] = [("2025-03-30 02:15", 1.0, name), ("2025-03-30 02:45", 1.0, name)]
        made.lines.append(made.lines[-1])
    return made


# each oddity has a small file in the other modules
@pytest.mark.long
def test_ingest__year_with_every_oddity__reports_each_once_and_drops_nothing(
    tenant: str,
    csv_file: CsvFile,
    ai_hub: AiHub,
    readings_of: ReadingsOf,
    everything_of: EverythingOf,
    rows: Rows,
) -> None:
    hall, shed = meter("hall", 1, odd=True), meter("shed", 2, odd=False)
    for each in (hall, shed):
        added = ai_hub(
            *("asset", "add", each.name, "--tenant", tenant, "--kind", "electricity", "--unit", "kWh"),
            *("--timezone", "Europe/Berlin", "--capacity", "5"),
        )
        assert added.returncode == 0, added.stderr
    lines = [*hall.lines, *shed.lines]
    command = ("ingest", "readings", csv_file("year.csv", "time,value,meter", lines), "--tenant", tenant)
    result = ai_hub(*command, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)

    # every line is accounted for, and what was stored is what was measured
    stored = len(hall.readings) + len(shed.readings)
    assert [report[name] for name in ("rows", "inserted", "rejected", "duplicates")] == [
        len(lines),
        stored,
        4,
        1,
    ]
    assert len(lines) == stored + 4 + 1
    assert sorted(report["reasons"].values()) == [1, 1, 2]
    measured = {
        (each.name, at): (value, "good") for each in (hall, shed) for at, value in each.readings.items()
    }
    assert readings_of(tenant) == measured
    quarantined = json.loads(ai_hub("ingest", "quarantine", "--tenant", tenant, "--json").stdout)
    assert Counter(row["cells"]["value"] for row in quarantined) == {"1.0": 2, "broken": 1, "5.6": 1}

    # every oddity is reported once
    findings: list[dict[str, Any]] = report["findings"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in findings:
        by_kind.setdefault(each["kind"], []).append(each)
    gaps = [(each["asset_id"], each["first"], each["last"], each["missing"]) for each in by_kind["gap"]]
    assert sorted(gaps) == sorted(hall.gaps() + shed.gaps())
    assert sum(missing for *_, missing in gaps) == len(hall.lost) + len(shed.lost)
    assert len(gaps) > 600
    stuck_at = [at for at in hall.readings if STUCK_DAY <= at < STUCK_DAY + DAY]
    (stuck,) = by_kind["stuck"]
    assert (stuck["asset_id"], stuck["value"], stuck["readings"]) == ("hall", 1.25, len(stuck_at))
    assert (stuck["first"], stuck["last"]) == (stuck_at[0].isoformat(), stuck_at[-1].isoformat())
    hours = {
        (each["kind"], each["asset_id"]): (each["local_from"], each["rows"], each["rejected"])
        for kind in ("skipped_hour", "repeated_hour")
        for each in by_kind[kind]
    }
    twice = {
        each.name: len(
            [at for at in each.readings if BACK - timedelta(hours=1) <= at < BACK + timedelta(hours=1)]
        )
        for each in (hall, shed)
    }
    assert hours == {
        ("skipped_hour", "hall"): ("2025-03-30 02:00", 2, 2),
        ("skipped_hour", "shed"): ("2025-03-30 02:00", 0, 0),
        ("repeated_hour", "hall"): ("2025-10-26 02:00", twice["hall"], 0),
        ("repeated_hour", "shed"): ("2025-10-26 02:00", twice["shed"], 0),
    }
    assert len(findings) == len(gaps) + 1 + len(hours)

    # again: nothing new, and not one row of any table is another
    before = everything_of(tenant)
    again = json.loads(ai_hub(*command, "--json").stdout)
    assert (again["unchanged"], again["inserted"], again["updated"]) == (stored, 0, 0)
    assert (again["findings"], again["resolved"]) == ([], [])
    assert everything_of(tenant) == before

    # features around each oddity are those of the slow, obvious way
    refreshed = ai_hub("refresh", "--json")
    assert refreshed.returncode == 0, refreshed.stderr
    longest = max(by_kind["gap"], key=lambda each: each["missing"] if each["asset_id"] == "hall" else 0)
    for middle in (FORWARD, BACK, STUCK_DAY, UNREADABLE, datetime.fromisoformat(longest["first"])):
        _compare_features(tenant, hall, middle, rows)


def _compare_features(tenant: str, meter: Meter, middle: datetime, rows: Rows) -> None:
    """Two days from the day before on: windows and lags that reach over the oddity."""
    start = middle - timedelta(hours=12)
    # the energy of a quarter-hour as its mean power
    near = {at: 4 * value for at, value in meter.readings.items() if start - 2 * DAY <= at < start + 3 * DAY}
    oracle = Asset("Europe/Berlin", near)
    names = ("hour_of_day", "day_of_week", "is_weekend", "historical_avg_24h", "lag_1h", "lag_24h")
    actual = rows(
        f"SELECT event_timestamp, {', '.join(names)} FROM forecast_basic_features"  # noqa: S608 - fixed names
        " WHERE tenant_id = %s AND asset_id = %s AND event_timestamp >= %s AND event_timestamp < %s"
        " ORDER BY 1",
        tenant,
        meter.name,
        start,
        start + 2 * DAY,
    )
    assert len(actual) == 48
    for hour, *values in actual:
        expected = oracle.row(hour)
        for name, value in zip(names, values, strict=True):
            assert same(value, expected[name], 5), (hour, name, value, expected[name])
