"""External series from files into the table, on the embedded TimescaleDB."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import pytest

from ai_hub.errors import BadInputError
from ai_hub.ingest.files import ingest_series, preview_series
from ai_hub.ingest.options import Options

if TYPE_CHECKING:
    from conftest import AiHub, CsvFile, Rows

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
QUERY = (
    'SELECT series, zone, "timestamp", available_at, value FROM covariates'
    " WHERE tenant_id = %s ORDER BY 1, 2, 3, 4"
)


def test_ingest_series__issues_of_one_hour__are_kept_by_issue_time(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    issued = [NOON - 24 * HOUR, NOON - 6 * HOUR]
    lines = [("DE-LU", NOON.isoformat(), at.isoformat(), 80 + i) for i, at in enumerate(issued)]
    lines.append(("NL", NOON.isoformat(), "", 70))
    file = csv_file("p.csv", "bidding zone,timestamp,published,Price [EUR/MWh]", lines)
    options = Options(tenant=tenant)
    report = ingest_series(file, options, name="price")
    assert (report.inserted, report.rejected, report.new_assets) == (3, 0, [])
    assert rows(QUERY, tenant) == [
        ("price", "DE-LU", NOON, issued[0], 80.0),
        ("price", "DE-LU", NOON, issued[1], 81.0),
        ("price", "NL", NOON, NOON + HOUR, 70.0),
    ]
    assert ingest_series(file, options, name="price").unchanged == 3
    units = "SELECT series, unit FROM covariate_series WHERE tenant_id = %s"
    assert rows(units, tenant) == [("price", "EUR/MWh")]
    assert rows("SELECT FROM assets WHERE tenant_id = %s", tenant) == []
    with pytest.raises(BadInputError, match="price is in EUR/MWh, and the file in ct/kWh"):
        ingest_series(file, options, name="price", unit="ct/kWh")


def test_ingest_series__day_ahead__is_available_on_the_day_before_in_local_time(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    # midnight in Berlin before and after the clocks went back on 26 October 2025, and the night's last hour
    lines = [("2025-10-26 00:00", 1), ("2025-10-27 00:00", 2), ("2025-10-26 23:00", 3)]
    options = Options(tenant=tenant, timezone="Europe/Berlin", asset="DE-LU")
    ingest_series(csv_file("p.csv", "time,price", lines), options, name="price", day_ahead=time(12, 45))
    stored = {value: (valid_at, available) for _, _, valid_at, available, value in rows(QUERY, tenant)}
    assert stored == {
        1.0: (datetime(2025, 10, 25, 22, tzinfo=UTC), datetime(2025, 10, 25, 10, 45, tzinfo=UTC)),
        2.0: (datetime(2025, 10, 26, 23, tzinfo=UTC), datetime(2025, 10, 26, 11, 45, tzinfo=UTC)),
        3.0: (datetime(2025, 10, 26, 22, tzinfo=UTC), datetime(2025, 10, 25, 10, 45, tzinfo=UTC)),
    }


def test_ingest_series__rows_that_make_no_sense__are_rejected(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=10)
    lines = [
        ("load", "", NOON.isoformat(), "", 5),
        ("Grid Load", "", NOON.isoformat(), "", 5),
        ("load", "", NOON.isoformat(), "", "much"),
        ("load", "", ahead.isoformat(), "", 5),
        ("load", "", ahead.isoformat(), NOON.isoformat(), 6),
    ]
    file = csv_file("s.csv", "series,ignored,timestamp,available_at,value", lines)
    report = ingest_series(file, Options(tenant=tenant))
    assert (report.inserted, report.rejected) == (2, 3)
    assert sorted(report.reasons) == [
        "available_at is in the future (a value needs the time it was published, see --available-at)",
        "series is no name: a small letter, then at most 47 small letters, digits and _, and not value",
        "value is not a number",
    ]
    assert [(series, zone, value) for series, zone, _, _, value in rows(QUERY, tenant)] == [
        ("load", "", 5.0),
        ("load", "", 6.0),
    ]
    quarantined = rows("SELECT table_name FROM quarantined_rows WHERE tenant_id = %s", tenant)
    assert quarantined == [("covariates",)] * 3


def test_ingest_series__correction__updates_and_is_noted_for_the_features(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    options = Options(tenant=tenant)
    ingest_series(csv_file("a.csv", "timestamp,load", [(NOON.isoformat(), 1)]), options, name="load")
    report = ingest_series(csv_file("b.csv", "timestamp,load", [(NOON.isoformat(), 2)]), options, name="load")
    assert (report.inserted, report.updated) == (0, 1)
    noted = rows("SELECT source, series, zone, first_hour FROM feature_changes WHERE tenant_id = %s", tenant)
    assert noted == [("series", "load", "", NOON)] * 2


def test_preview_series__writes_nothing(tenant: str, csv_file: CsvFile, rows: Rows) -> None:
    file = csv_file("a.csv", "timestamp,load", [(NOON.isoformat(), 1)])
    shown = preview_series(file, Options(tenant=tenant), name="load")
    assert shown.report.inserted == 1
    assert rows(QUERY, tenant) == rows("SELECT FROM covariate_series WHERE tenant_id = %s", tenant) == []


def test_command__series__reads_options_and_refuses_what_cannot_be(
    tenant: str, csv_file: CsvFile, rows: Rows, ai_hub: AiHub
) -> None:
    file = csv_file(
        "a.csv",
        "when,out,what",
        [(NOON.isoformat(), (NOON - HOUR).isoformat(), 1), (NOON.isoformat(), "", 2)],
    )
    command = ["ingest", "series", file, "--tenant", tenant, "--columns", "timestamp=when,value=what"]
    done = ai_hub(*command, "--series", "price", "--zone", "NL", "--available-at", "out", "--unit", "EUR/MWh")
    assert done.returncode == 0, done.stderr
    assert "2 inserted" in done.stdout
    assert [(zone, available) for _, zone, _, available, _ in rows(QUERY, tenant)] == [
        ("NL", NOON - HOUR),
        ("NL", NOON + HOUR),
    ]
    for options, problem in {
        ("--series", "Day-ahead"): "is no name",
        (): "No column of the file is recognised as series",
        ("--series", "price", "--day-ahead", "noon"): "is no time of day",
        ("--series", "price", "--day-ahead", "12:45", "--available-after", "1h"): "exclude each other",
    }.items():
        refused = ai_hub(*command, *options)
        assert (refused.returncode, problem in refused.stderr) == (2, True), refused


def test_command__keys_of_an_asset__are_set_kept_and_cleared(tenant: str, rows: Rows, ai_hub: AiHub) -> None:
    add = ["asset", "add", "hall", "--tenant", tenant]
    assert ai_hub(*add, "--price-zone", "NL", "--group", "north", "--weather-station", "240").returncode == 0
    query = 'SELECT price_zone, "group", weather_station FROM assets WHERE tenant_id = %s'
    assert rows(query, tenant) == [("NL", "north", "240")]
    done = ai_hub(*add, "--kind", "electricity", "--group", "")
    assert done.stdout == f"{tenant}/hall: electricity, no unit, UTC, price zone NL, weather station 240\n"
    assert rows(query, tenant) == [("NL", None, "240")]
    listed = json.loads(ai_hub("asset", "list", "--tenant", tenant, "--json").stdout)
    assert [each["price_zone"] for each in listed] == ["NL"]
    refused = ai_hub(*add, "--group", " north")
    assert (refused.returncode, "group" in refused.stderr) == (2, True), refused
