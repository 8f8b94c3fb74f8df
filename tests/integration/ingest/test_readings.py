"""Readings from files into the table, on the embedded TimescaleDB."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from ai_hub.db import connect
from ai_hub.errors import BadInputError
from ai_hub.ingest import assets, tables, upsert
from ai_hub.ingest.files import ingest_readings
from ai_hub.ingest.options import Options, Reading, Stamps

if TYPE_CHECKING:
    from conftest import CsvFile, ReadingsOf, Rows

    from ai_hub.ingest.report import Report

START = datetime(2025, 3, 1, tzinfo=UTC)


def counts(report: Report) -> tuple[int, int, int, int, int]:
    numbers = (report.inserted, report.updated, report.unchanged, report.duplicates, report.rejected)
    assert sum(numbers) == report.rows
    return numbers


def hours(count: int, start: datetime = START) -> list[tuple[str, float]]:
    return [((start + timedelta(hours=i)).isoformat(), i * 0.5) for i in range(count)]


def test_ingest_readings__second_run__changes_nothing(
    tenant: str, csv_file: CsvFile, rows: Rows, readings_of: ReadingsOf
) -> None:
    file = csv_file("m.csv", "timestamp,value", hours(50))
    options = Options(tenant=tenant, asset="m")
    assert counts(ingest_readings(file, options)) == (50, 0, 0, 0, 0)
    stamps = 'SELECT "timestamp", ingested_at FROM timeseries_data WHERE tenant_id = %s ORDER BY 1'
    before = rows(stamps, tenant)
    assert counts(ingest_readings(file, options)) == (0, 0, 50, 0, 0)
    assert rows(stamps, tenant) == before
    assert readings_of(tenant) == {("m", START + timedelta(hours=i)): (i * 0.5, "good") for i in range(50)}


def test_ingest_readings__corrected_values__update_only_the_rows_that_differ(
    tenant: str, csv_file: CsvFile, rows: Rows, readings_of: ReadingsOf
) -> None:
    options = Options(tenant=tenant, asset="m")
    ingest_readings(csv_file("a.csv", "timestamp,value", hours(10)), options)
    changed: list[tuple[object, ...]] = [(*row, "") for row in hours(12)]
    changed[3] = (changed[3][0], 2.5, "")
    changed[4] = (*changed[4][:2], "estimated")
    report = ingest_readings(csv_file("b.csv", "timestamp,value,quality", changed), options)
    assert counts(report) == (2, 2, 8, 0, 0)
    actual = readings_of(tenant)
    assert actual["m", START + timedelta(hours=3)] == (2.5, "good")
    assert actual["m", START + timedelta(hours=4)] == (2.0, "estimated")
    touched = rows(
        'SELECT "timestamp" FROM timeseries_data WHERE tenant_id = %s AND ingested_at >'
        " (SELECT min(ingested_at) FROM timeseries_data WHERE tenant_id = %s) ORDER BY 1",
        tenant,
        tenant,
    )
    assert [t for (t,) in touched] == [START + timedelta(hours=i) for i in (3, 4, 10, 11)]


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "text"])
def test_ingest_readings__parquet_and_csv__give_the_same_table(
    tenant: str, csv_file: CsvFile, readings_of: ReadingsOf, tmp_path: Path, typed: bool
) -> None:
    frame = pd.DataFrame(hours(30), columns=["timestamp", "value"]).assign(meter="m")
    frame.loc[5, "value"] = None
    lines = list(frame.astype(object).fillna("").itertuples(index=False))
    ingest_readings(csv_file("m.csv", "timestamp,value,meter", lines), Options(tenant=f"{tenant}-csv"))
    if typed:
        frame["timestamp"] = pd.to_datetime(frame["timestamp"]).dt.tz_convert("America/Chicago")
        frame["meter"] = frame["meter"].astype("category")
    else:
        frame["value"] = frame["value"].astype("string")
    frame.to_parquet(tmp_path / "m.parquet")
    report = ingest_readings(tmp_path / "m.parquet", Options(tenant=f"{tenant}-parquet"))
    assert counts(report) == (29, 0, 0, 0, 1)
    assert readings_of(f"{tenant}-parquet") == readings_of(f"{tenant}-csv")


def test_ingest_readings__malformed_rows__go_to_the_reject_file_and_the_others_in(
    tenant: str, csv_file: CsvFile, readings_of: ReadingsOf
) -> None:
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    good = hours(3)
    lines: list[tuple[object, ...]] = [
        good[0],
        ("yesterday", 1),
        ("2025-03-01T00:00:00Z", "many"),
        ("2025-03-02T00:00:00Z", ""),
        ("2025-03-03T00:00:00Z", "inf"),
        ("", ""),
        good[1],
        ("2025-03-04T00:00:00Z", 1, 2),
        (soon, 5),
        ("1741000000", 5),
        good[2],
        good[2],
        (good[1][0], 99),
    ]
    report = ingest_readings(csv_file("m.csv", "timestamp,value", lines), Options(tenant=tenant, asset="m"))
    assert counts(report) == (3, 0, 0, 1, 8)
    assert readings_of(tenant) == {
        ("m", START): (0.0, "good"),
        ("m", START + timedelta(hours=1)): (99.0, "good"),
        ("m", START + timedelta(hours=2)): (1.0, "good"),
    }
    assert report.reject_file is not None
    with Path(report.reject_file).open(newline="") as text:
        rejects = {int(row["line"]): row for row in csv.DictReader(text)}
    reasons = {line: row["reason"] for line, row in rejects.items()}
    assert {line: reason[:24] for line, reason in reasons.items()} == {
        3: "timestamp is not a possi",
        4: "value is not a number",
        5: "value is missing or not ",
        6: "value is missing or not ",
        8: "a later row has the same",
        9: "has 3 fields instead of ",
        10: "timestamp is more than a",
        11: "timestamp is a bare numb",
    }
    assert rejects[4]["value"] == "many"
    assert rejects[9]["row"] == "2025-03-04T00:00:00Z,1,2"
    assert sum(report.reasons.values()) == 8


def test_ingest_readings__corrected_reject_file__is_ingested_like_the_original(
    tenant: str, csv_file: CsvFile, readings_of: ReadingsOf
) -> None:
    options = Options(tenant=tenant, asset="m", columns={"value": "kWh used"})
    file = csv_file("m.csv", "start,kWh used", [("2025-03-01T00:00:00Z", "1O"), ("2025-03-01T01:00:00Z", 2)])
    report = ingest_readings(file, options)
    assert report.reject_file is not None
    corrected = csv_file("c.csv", "", [])
    corrected.write_text(Path(report.reject_file).read_text().replace("1O", "10"))
    assert counts(ingest_readings(corrected, options)) == (1, 0, 0, 0, 0)
    assert readings_of(tenant)["m", START] == (10.0, "good")


def test_ingest_readings__two_tenants_with_the_same_assets__never_meet(
    tenant: str, csv_file: CsvFile, readings_of: ReadingsOf
) -> None:
    first, second = f"{tenant}-1", f"{tenant}-11"
    for owner, asset, value in ((first, "11", 1), (second, "11", 2), (second, "1", 3)):
        file = csv_file("m.csv", "timestamp,value,asset", [(START.isoformat(), value, asset)])
        ingest_readings(file, Options(tenant=owner))
    assert readings_of(first) == {("11", START): (1.0, "good")}
    assert readings_of(second) == {("11", START): (2.0, "good"), ("1", START): (3.0, "good")}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("minutes", [pytest.param(15, marks=pytest.mark.long), 60])
def test_ingest_readings__local_year_with_both_clock_changes__keeps_every_reading(
    tenant: str,
    csv_file: CsvFile,
    readings_of: ReadingsOf,
    monkeypatch: pytest.MonkeyPatch,
    zone: str,
    minutes: int,
) -> None:
    """Naive local times of the asset's registered zone, in blocks that cut through the repeated hour."""
    monkeypatch.setattr(tables, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(upsert, "CHUNK_ROWS", 997)
    start = datetime(2024, 10, 20, tzinfo=UTC)
    step = timedelta(minutes=minutes)
    # Past the spring change of the following year, without the quiet months between.
    instants = [start + i * step for i in range(int(timedelta(days=21) / step))]
    instants += [instant + timedelta(days=135) for instant in instants]
    local = [(t.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M"), i) for i, t in enumerate(instants)]
    with connect() as connection:
        assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id="m", timezone=zone))
    file = csv_file("m.csv", "timestamp,value", local)
    assert counts(ingest_readings(file, Options(tenant=tenant, asset="m"))) == (len(instants), 0, 0, 0, 0)
    assert readings_of(tenant) == {("m", t): (float(i), "good") for i, t in enumerate(instants)}


def test_ingest_readings__each_asset_in_its_own_zone__lands_at_its_own_instant(
    tenant: str, csv_file: CsvFile, readings_of: ReadingsOf
) -> None:
    with connect() as connection:
        for name, zone in (("berlin", "Europe/Berlin"), ("york", "America/New_York")):
            assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id=name, timezone=zone))
    names = ("berlin", "york", "new")
    file = csv_file("m.csv", "timestamp,value,asset", [("2025-01-15 12:00", 1, name) for name in names])
    report = ingest_readings(file, Options(tenant=tenant))
    assert report.new_assets == ["new"]
    assert {asset: instant.hour for asset, instant in readings_of(tenant)} == {
        "berlin": 11,
        "york": 17,
        "new": 12,
    }


def test_ingest_readings__rules_follow_the_kind_of_each_asset(tenant: str, csv_file: CsvFile) -> None:
    with connect() as connection:
        assets.save(
            connection, assets.validate_asset(tenant_id=tenant, asset_id="g", kind="gas", unit="therm")
        )
        assets.save(
            connection, assets.validate_asset(tenant_id=tenant, asset_id="e", kind="electricity", unit="kWh")
        )
    file = csv_file(
        "m.csv", "timestamp,value,asset", [(START.isoformat(), -1, "g"), (START.isoformat(), -1, "e")]
    )
    options = Options(tenant=tenant, interval=timedelta(hours=1))
    report = ingest_readings(file, options)
    assert counts(report) == (1, 0, 0, 0, 1)
    assert list(report.reasons) == ["value is below 0, impossible for gas"]
    assert counts(ingest_readings(file, replace(options, unit="kWh"))) == (0, 0, 1, 0, 1)


def test_ingest_readings__unit_of_the_asset__is_checked_and_filled_in(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    file = csv_file("m.csv", "timestamp,value", hours(2))
    ingest_readings(file, Options(tenant=tenant, asset="m"))
    ingest_readings(file, Options(tenant=tenant, asset="m", unit="kWh"))
    assert rows("SELECT unit FROM assets WHERE tenant_id = %s", tenant) == [("kWh",)]
    with pytest.raises(BadInputError, match="registered in kWh, not kW"):
        ingest_readings(file, Options(tenant=tenant, asset="m", unit="kW"))


def test_ingest_readings__nothing_usable__registers_no_asset(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    report = ingest_readings(
        csv_file("m.csv", "timestamp,value,asset", [("x", 1, "m"), (START.isoformat(), 1, "")]),
        Options(tenant=tenant),
    )
    assert report.accepted == 0
    assert report.rejected == 2
    assert rows("SELECT * FROM assets WHERE tenant_id = %s", tenant) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"asset": None}, "No column of the file is recognised as asset_id"),
        ({"tenant": "Not A Tenant"}, "tenant_id"),
        ({"timezone": "Mars/Olympus"}, "not a time zone"),
        ({"columns": {"value": "kwh"}}, "no column 'kwh'"),
    ],
)
def test_ingest_readings__unusable_options__are_refused_before_anything_is_written(
    tenant: str, csv_file: CsvFile, rows: Rows, changes: dict[str, Any], text: str
) -> None:
    file = csv_file("m.csv", "timestamp,value", hours(2))
    with pytest.raises(BadInputError, match=text):
        ingest_readings(file, Options(**{"tenant": tenant, "asset": "m", **changes}))
    assert rows("SELECT * FROM assets WHERE tenant_id = %s", tenant) == []


def test_ingest_readings__reject_file_that_is_the_input__is_refused(tenant: str, csv_file: CsvFile) -> None:
    file = csv_file("m.csv", "timestamp,value", [("x", 1)])
    with pytest.raises(BadInputError, match="reject file is the input"):
        ingest_readings(file, Options(tenant=tenant, asset="m"), reject_file=file)
    assert "x,1" in file.read_text()


AVAILABLE = (
    'SELECT "timestamp", value, available_at FROM timeseries_data'
    " WHERE tenant_id = %s AND asset_id = 'm' ORDER BY 1"
)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_ingest_readings__available_at__is_stored_with_the_reading(
    tenant: str, csv_file: CsvFile, rows: Rows, tmp_path: Path, name: str
) -> None:
    # local time, an empty one, and one with an offset
    given = ["2025-03-02 07:00", "", "2025-03-03T06:00:00+00:00"]
    lines = [(at, value, known) for (at, value), known in zip(hours(3), given, strict=True)]
    file = csv_file("m.csv", "timestamp,value,Ankunft", lines)
    if name == "m.parquet":
        file = tmp_path / name
        frame = pd.DataFrame(lines, columns=["timestamp", "value", "Ankunft"])
        frame["Ankunft"] = pd.to_datetime(
            ["2025-03-02T06:00Z", None, "2025-03-03T06:00Z"], utc=True, format="ISO8601"
        )
        frame.to_parquet(file)
    options = Options(tenant=tenant, asset="m", timezone="Europe/Berlin", columns={"available_at": "Ankunft"})
    assert counts(ingest_readings(file, options)) == (3, 0, 0, 0, 0)
    second = datetime(2025, 3, 2, 6, tzinfo=UTC)
    known = [(START, 0.0, second), (START + HOUR, 0.5, None), (START + 2 * HOUR, 1.0, second + 24 * HOUR)]
    assert rows(AVAILABLE, tenant) == known
    assert counts(ingest_readings(file, options)) == (0, 0, 3, 0, 0)
    assert rows("SELECT longest_delay FROM asset_spans WHERE tenant_id = %s", tenant) == [(52 * HOUR,)]
    assert rows(AVAILABLE, f"{tenant}-x") == []


def test_ingest_readings__another_available_at__is_a_correction(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    options, header = Options(tenant=tenant, asset="m"), "timestamp,value,available_at"
    known = (START + 30 * HOUR).isoformat()
    ingest_readings(csv_file("a.csv", header, [(at, value, known) for at, value in hours(4)]), options)
    second = [(at, value, when) for (at, value), when in zip(hours(2), ["", known], strict=True)]
    assert counts(ingest_readings(csv_file("b.csv", header, second), options)) == (0, 1, 1, 0, 0)
    # without the column: what is as it was stays, and another value was not known before now
    before = datetime.now(UTC) - HOUR
    third = csv_file("c.csv", "timestamp,value", [hours(1)[0], hours(2)[1], (hours(3)[2][0], 7.0)])
    assert counts(ingest_readings(third, options)) == (0, 1, 2, 0, 0)
    (_, first), (_, unchanged), (value, corrected), (_, kept) = (row[1:] for row in rows(AVAILABLE, tenant))
    assert (first, unchanged, value, kept) == (None, START + 30 * HOUR, 7.0, START + 30 * HOUR)
    assert corrected > before


def test_ingest_readings__another_quality_or_interval_alone__keeps_when_it_was_available(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    options, known = Options(tenant=tenant, asset="m"), START + 30 * HOUR
    lines = [(at, value, known.isoformat()) for at, value in hours(3)]
    ingest_readings(csv_file("a.csv", "timestamp,value,available_at", lines), options)
    for name, quality, interval in [("b.csv", "estimated", None), ("c.csv", "good", HOUR / 2)]:
        file = csv_file(name, "timestamp,value,quality", [(*row, quality) for row in hours(3)])
        report = ingest_readings(file, replace(options, interval=interval))
        assert counts(report) == (0, 3, 0, 0, 0)
        assert [when for *_, when in rows(AVAILABLE, tenant)] == [known] * 3


def test_ingest_readings__impossible_available_at__is_rejected_with_what_to_do(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=3)
    lines: list[tuple[object, ...]] = [(at, value, "2025-03-09T00:00:00Z") for at, value in hours(8)]
    lines[1] = (*lines[1][:2], (START + 2 * HOUR - timedelta(seconds=1)).isoformat())
    lines[2] = (*lines[2][:2], (START + 3 * HOUR).isoformat())
    lines[3] = (*lines[3][:2], ahead.isoformat())
    lines[4] = (*lines[4][:2], "soon")
    lines[5] = (*lines[5][:2], "2025-10-26 02:30")
    report = ingest_readings(
        csv_file("m.csv", "timestamp,value,available_at", lines),
        Options(tenant=tenant, asset="m", unit="kWh", timezone="Europe/Berlin"),
    )
    assert counts(report) == (4, 0, 0, 0, 4)
    unreadable, ambiguous, too_early, too_late = sorted(report.reasons, key=lambda each: ":" not in each[:13])
    assert too_early.startswith("available_at is before the end of the reading's interval")
    assert "give the time at which the value arrived" in too_early
    assert too_late == "available_at is more than a day in the future"
    assert unreadable.startswith("available_at: ")
    assert ambiguous.startswith("available_at: ")
    assert [at for at, *_ in rows(AVAILABLE, tenant)] == [START + i * HOUR for i in (0, 2, 6, 7)]


def test_ingest_readings__available_at_of_stamps_at_the_end__is_compared_with_the_end(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    lines = [(at, value, at) for at, value in hours(3)]
    options = Options(tenant=tenant, asset="m", stamps=Stamps.END)
    file = csv_file("m.csv", "timestamp,value,available_at", lines)
    assert counts(ingest_readings(file, options)) == (3, 0, 0, 0, 0)
    assert [(known - at) for at, _, known in rows(AVAILABLE, tenant)] == [HOUR] * 3


def test_ingest_readings__available_at_of_a_register__is_that_of_the_later_reading(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    given = [START + 2 * HOUR, START + 9 * HOUR, None, START + 9 * HOUR, None, None]
    lines = [
        (at, 10 * value, "" if known is None else known.isoformat())
        for (at, value), known in zip(hours(6), given, strict=True)
    ]
    file = csv_file("m.csv", "timestamp,value,available_at", lines)
    ingest_readings(file, Options(tenant=tenant, asset="m", unit="kWh", reading=Reading.REGISTER))
    found = [known for *_, known in rows(AVAILABLE, tenant)]
    # where one of two is not given, it was known at once, as the register has no delay
    assert found == [START + 9 * HOUR, START + 9 * HOUR, START + 9 * HOUR, START + 9 * HOUR, None]
    # and by another rule of the asset at another time
    delayed = "UPDATE assets SET available_after = '12h' WHERE tenant_id = %s"
    with connect(autocommit=True) as connection:
        connection.execute(delayed, [tenant])
    found = [known for *_, known in rows(AVAILABLE, tenant)]
    assert found == [START + at * HOUR for at in (9, 14, 14, 16)] + [None]
