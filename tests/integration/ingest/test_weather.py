"""Weather from files into the table, on the embedded TimescaleDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ai_hub.errors import BadInputError
from ai_hub.ingest.files import ingest_weather
from ai_hub.ingest.options import Options, TemperatureUnit

if TYPE_CHECKING:
    from conftest import CsvFile, Rows

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
QUERY = (
    'SELECT "timestamp", available_at, temperature, humidity FROM weather_features'
    " WHERE tenant_id = %s ORDER BY 1, 2"
)


def test_ingest_weather__observation__is_available_once_its_hour_has_ended(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    file = csv_file("w.csv", "dt,tempF", [(NOON.isoformat(), 212), ((NOON + HOUR).isoformat(), -40)])
    options = Options(tenant=tenant, asset="roof", columns={"temperature": "tempF"})
    report = ingest_weather(file, options, temperature_unit=TemperatureUnit.FAHRENHEIT)
    assert (report.inserted, report.rejected) == (1, 1)
    assert list(report.reasons) == ["temperature is outside -95..65 °C"]
    assert rows(QUERY, tenant) == [(NOON + HOUR, NOON + 2 * HOUR, -40.0, None)]
    ingest_weather(
        file, options, temperature_unit=TemperatureUnit.FAHRENHEIT, available_after=timedelta(minutes=10)
    )
    assert next(available for _, available, *_ in rows(QUERY, tenant)) == NOON + HOUR + timedelta(minutes=10)


def test_ingest_weather__forecasts_of_one_hour__are_kept_by_issue_time(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    issued = [NOON - 24 * HOUR, NOON - 6 * HOUR]
    lines = [(NOON.isoformat(), t.isoformat(), 20 + i, 50) for i, t in enumerate(issued)]
    lines.append((NOON.isoformat(), "", 25, 40))
    file = csv_file("w.csv", "timestamp,issued_at,temperature,humidity", lines)
    options = Options(tenant=tenant, asset="roof")
    assert ingest_weather(file, options).inserted == 3
    assert rows(QUERY, tenant) == [
        (NOON, issued[0], 20.0, 50.0),
        (NOON, issued[1], 21.0, 50.0),
        (NOON, NOON + HOUR, 25.0, 40.0),
    ]
    assert ingest_weather(file, options).unchanged == 3


def test_ingest_weather__another_variable_later__fills_in_and_keeps_the_first(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    options = Options(tenant=tenant, asset="roof")
    ingest_weather(csv_file("t.csv", "timestamp,temperature", [(NOON.isoformat(), 20)]), options)
    report = ingest_weather(csv_file("h.csv", "timestamp,humidity", [(NOON.isoformat(), 60)]), options)
    assert report.updated == 1
    assert rows(QUERY, tenant) == [(NOON, NOON + HOUR, 20.0, 60.0)]


def test_ingest_weather__rows_that_make_no_sense__are_rejected(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=10)
    lines = [
        (NOON.isoformat(), "", 20, 101),
        (NOON.isoformat(), "", "warm", 50),
        (NOON.isoformat(), "", "", ""),
        (NOON.isoformat(), "soon", 20, 50),
        ("2024-10-27 12:00", "2024-10-27 02:30", 20, 50),
        (ahead.isoformat(), "", 20, 50),
        (ahead.isoformat(), NOON.isoformat(), 20, ""),
    ]
    file = csv_file("w.csv", "timestamp,available_at,temperature,humidity", lines)
    report = ingest_weather(file, Options(tenant=tenant, asset="roof", timezone="Europe/Berlin"))
    assert (report.inserted, report.rejected) == (1, 6)
    assert len(report.reasons) == 6
    assert rows(QUERY, tenant) == [(ahead, NOON, 20.0, None)]


def test_ingest_weather__station__is_registered_as_weather(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    file = csv_file("w.csv", "timestamp,temperature", [(NOON.isoformat(), 20)])
    report = ingest_weather(file, Options(tenant=tenant, asset="roof", timezone="Europe/Berlin"))
    assert report.new_assets == ["roof"]
    assert rows("SELECT asset_id, kind, timezone FROM assets WHERE tenant_id = %s", tenant) == [
        ("roof", "weather", "Europe/Berlin")
    ]


def test_ingest_weather__file_without_weather__lists_its_columns(tenant: str, csv_file: CsvFile) -> None:
    file = csv_file("w.csv", "timestamp,kwh", [(NOON.isoformat(), 20)])
    with pytest.raises(BadInputError, match=r"timestamp, kwh.*--columns temperature=COLUMN"):
        ingest_weather(file, Options(tenant=tenant, asset="roof"))
