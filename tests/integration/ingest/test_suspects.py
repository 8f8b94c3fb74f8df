"""Readings that are probably wrong: found, shown, left out of features or not, and corrected."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ai_hub.db import connect
from ai_hub.ingest import assets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from conftest import AiHub, CsvFile, Rows

HOUR = timedelta(hours=1)
START = datetime(2025, 3, 3, tzinfo=UTC)
HOURS = 24 * 70
CODE = 4294967.295
AT = 1000


def measured(seed: int = 1) -> list[float]:
    hour = np.arange(HOURS) % 24
    profile = 1 + np.exp(-(((hour - 19) / 3) ** 2))
    return (profile * np.random.default_rng(seed).lognormal(0, 0.1, HOURS)).round(4).tolist()


def csv(csv_file: CsvFile, values: Mapping[int, float] | Sequence[float]) -> Path:
    pairs = values.items() if hasattr(values, "items") else enumerate(values)
    return csv_file(
        "m.csv", "timestamp,value", [((START + i * HOUR).isoformat(), value) for i, value in pairs]
    )


def register(tenant: str, **values: object) -> None:
    with connect() as connection:
        assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id="m", **values))


def found(ai_hub: AiHub, tenant: str, *options: str) -> list[tuple[str, int, int, bool]]:
    """Kind, first and last hour since the start, and whether it is open."""
    result = ai_hub("ingest", "findings", "--tenant", tenant, "--json", *options)
    return [
        (
            item["kind"],
            (datetime.fromisoformat(item["first"]) - START) // HOUR,
            (datetime.fromisoformat(item["last"]) - START) // HOUR,
            item["resolved_at"] is None,
        )
        for item in json.loads(result.stdout)
    ]


def left_out(rows: Rows, tenant: str) -> set[int]:
    query = 'SELECT "timestamp" FROM timeseries_data WHERE tenant_id = %s AND NOT in_features'
    return {(at - START) // HOUR for (at,) in rows(query, tenant)}


def test_suspects__error_code__is_found_once_and_resolved_when_corrected(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, rows: Rows
) -> None:
    register(tenant, kind="electricity", unit="kWh")
    values = measured()
    broken = [*values[:AT], CODE, CODE, *values[AT + 2 :]]
    command = ("ingest", "readings", "--tenant", tenant, "--asset", "m", "--interval", "1h")
    told = ai_hub(*command, csv(csv_file, broken)).stdout
    assert "Found for the first time: 1 error_code" in told
    assert (
        "2 readings such as 4294967.295, an error code, from 2025-04-13 16:00Z to 2025-04-13 17:00Z" in told
    )
    assert "Features use such readings unless `ai-hub ingest quality --found leave-out`" in told
    assert found(ai_hub, tenant) == [("error_code", AT, AT + 1, True)]
    assert "Found for the first time" not in ai_hub(*command, csv(csv_file, broken)).stdout
    assert left_out(rows, tenant) == set()
    assert "No longer so: 1 error_code" in ai_hub(*command, csv(csv_file, {AT: values[AT], AT + 1: 2})).stdout
    assert found(ai_hub, tenant) == [("error_code", AT, AT + 1, False)]


def test_suspects__files_in_any_order__are_found_alike(tenant: str, csv_file: CsvFile, ai_hub: AiHub) -> None:
    values = measured()
    values[AT : AT + 60] = [value * 1000 for value in values[AT : AT + 60]]
    values[500:530] = values[300:330]
    everything = dict(enumerate(values))
    orders = {
        "forth": [range(i, i + 240) for i in range(0, HOURS, 240)],
        "back": [range(i, i + 240) for i in range(HOURS - 240, -1, -240)],
        "once": [range(HOURS)],
    }
    for name, files in orders.items():
        own = f"{tenant}-{name}"
        register(own, kind="electricity", unit="kWh")
        for hours in files:
            file = csv(csv_file, {i: everything[i] for i in hours})
            assert ai_hub("ingest", "readings", file, "--tenant", own, "--asset", "m").returncode == 0
        assert found(ai_hub, own, "--open") == [
            ("copied_days", 500, 529, True),
            ("unit_jump", AT, AT + 59, True),
        ]


def test_suspects__policy__keeps_them_out_of_features_until_they_are_corrected(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, rows: Rows
) -> None:
    other = f"{tenant}-1"
    values = measured()
    broken = [*values[:AT], CODE, CODE, *values[AT + 2 :]]
    for own in (tenant, other):
        register(own, kind="electricity", unit="kWh")
        ai_hub("ingest", "readings", csv(csv_file, broken), "--tenant", own, "--asset", "m")
    ai_hub("refresh")

    def lag(hour: int) -> float | None:
        query = "SELECT lag_1h FROM forecast_basic_features WHERE tenant_id = %s AND event_timestamp = %s"
        [(value,)] = rows(query, tenant, START + (hour + 1) * HOUR)
        return value

    assert lag(AT) == CODE
    changed = ai_hub("ingest", "quality", "--tenant", tenant, "--found", "leave-out").stdout
    assert "found: left out" in changed
    assert "2 readings changed" in changed
    assert left_out(rows, tenant) == {AT, AT + 1}
    assert left_out(rows, other) == set()
    ai_hub("refresh")
    assert (lag(AT), lag(AT - 1)) == (None, values[AT - 1])
    # what is still wrong stays out, and what is right comes back
    ai_hub("ingest", "readings", csv(csv_file, {AT: 65_535}), "--tenant", tenant, "--asset", "m")
    assert left_out(rows, tenant) == {AT, AT + 1}
    ai_hub("ingest", "readings", csv(csv_file, {AT: values[AT]}), "--tenant", tenant, "--asset", "m")
    assert left_out(rows, tenant) == {AT + 1}
    ai_hub("refresh")
    assert (lag(AT), lag(AT + 1)) == (values[AT], None)
    # its own quality counts, too
    assert "2 readings" not in ai_hub("ingest", "quality", "--tenant", tenant, "--suspect", "use").stdout
    assert left_out(rows, tenant) == {AT + 1}
    ai_hub("ingest", "quality", "--tenant", tenant, "--found", "use")
    assert left_out(rows, tenant) == set()


@pytest.mark.parametrize(
    ("corrected", "rest"), [([2], [0, 1]), ([0], [1, 2]), ([1, 2, 3], [0, 4]), ([3, 4], [0, 1, 2])]
)
def test_suspects__finding_that_shrinks_or_splits__leaves_out_its_rest(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, rows: Rows, corrected: list[int], rest: list[int]
) -> None:
    register(tenant, kind="electricity", unit="kWh")
    broken = measured()
    for i in (*corrected, *rest):
        broken[AT + i] = CODE
    command = ("ingest", "readings", "--tenant", tenant, "--asset", "m")
    ai_hub(*command, csv(csv_file, broken))
    ai_hub("ingest", "quality", "--tenant", tenant, "--found", "leave-out")
    assert left_out(rows, tenant) == {AT + i for i in (*corrected, *rest)}
    ai_hub(*command, csv(csv_file, {AT + i: measured()[AT + i] for i in corrected}))
    expected = set(range(AT + min(rest), AT + max(rest) + 1))
    if max(rest) - min(rest) > 3:
        expected = {AT + i for i in rest}
    assert left_out(rows, tenant) == expected


def test_suspects__policy__takes_readings_back_that_no_finding_is_about(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, rows: Rows
) -> None:
    other = f"{tenant}-1"
    for own in (tenant, other):
        register(own, kind="electricity", unit="kWh")
        broken = [*measured()[:AT], CODE, CODE, *measured()[AT + 2 :]]
        ai_hub("ingest", "readings", csv(csv_file, broken), "--tenant", own, "--asset", "m")
        ai_hub("ingest", "quality", "--tenant", own, "--found", "leave-out")
        with connect(autocommit=True) as connection:
            connection.execute("UPDATE data_findings SET resolved_at = now() WHERE tenant_id = %s", [own])
    told = ai_hub("ingest", "quality", "--tenant", tenant, "--found", "use").stdout
    assert "2 readings changed" in told
    assert (left_out(rows, tenant), left_out(rows, other)) == (set(), {AT, AT + 1})


def test_check_readings__what_sql_wrote__is_checked_of_that_tenant_alone(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, rows: Rows
) -> None:
    other = f"{tenant}-1"
    for own in (tenant, other):
        register(own, kind="electricity", unit="kWh")
        ai_hub("ingest", "readings", csv(csv_file, measured()), "--tenant", own, "--asset", "m")
        with connect(autocommit=True) as connection:
            connection.execute(
                'UPDATE timeseries_data SET value = -value WHERE tenant_id = %s AND "timestamp" = %s',
                [own, START + AT * HOUR],
            )
    assert found(ai_hub, tenant) == []
    result = ai_hub("check", "readings", "--tenant", tenant, "--json")
    summary = json.loads(result.stdout)
    assert summary["assets"] == ["m"]
    assert [item["kind"] for item in summary["new"]] == ["negative_consumption"]
    assert found(ai_hub, tenant) == [("negative_consumption", AT, AT, True)]
    assert found(ai_hub, other) == []
    assert "Found for the first time" not in ai_hub("check", "readings", "--tenant", tenant).stdout
    assert rows("SELECT FROM data_checks_due WHERE tenant_id = %s", tenant) == []
    refused = ai_hub("check", "readings", "--tenant", tenant, "--asset", "nothing")
    assert refused.returncode == 2
    assert f"Nothing is stored of nothing of tenant {tenant}." in refused.stderr


def test_suspects__generation_at_night__is_found_by_the_sun_over_the_asset(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    register(tenant, kind="solar", unit="kW", latitude=52.5, longitude=13.4, timezone="Europe/Berlin")
    hour = np.arange(HOURS) % 24
    clouds = np.random.default_rng(1).uniform(0.5, 1, HOURS)
    values = (np.clip(np.sin((hour - 4) / 14 * np.pi), 0, None) * (hour >= 4) * (hour <= 18) * clouds).round(
        4
    )
    assert not values[AT // 24 * 24 + 22 :: 24].any()
    night = AT // 24 * 24 + 22
    values[night : night + 2] = 0.7
    ai_hub("ingest", "readings", csv(csv_file, values.tolist()), "--tenant", tenant, "--asset", "m")
    assert found(ai_hub, tenant) == [("midnight_sun", night, night + 1, True)]


def test_suspects__clock_shift__is_found_by_the_check_alone_and_kept_by_ingest(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    register(tenant, kind="electricity", unit="kWh")
    values = np.array(measured())
    shifted = values.copy()
    shifted[AT : AT + 240] = values[AT - 6 : AT + 234]
    command = ("ingest", "readings", "--tenant", tenant, "--asset", "m")
    ai_hub(*command, csv(csv_file, shifted.tolist()))
    assert found(ai_hub, tenant) == []
    ai_hub("check", "readings", "--tenant", tenant)
    before = found(ai_hub, tenant)
    assert [(kind, is_open) for kind, _, _, is_open in before] == [("clock_shift", True)]
    ai_hub(*command, csv(csv_file, {AT + 100: 1.5}))
    assert found(ai_hub, tenant) == before
    # what is right is found by the check again
    ai_hub(*command, csv(csv_file, values.tolist()))
    assert found(ai_hub, tenant) == before
    ai_hub("check", "readings", "--tenant", tenant)
    assert [is_open for *_, is_open in found(ai_hub, tenant)] == [False]


def test_suspects__frozen_temperature__is_found_and_resolved(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    register(tenant, kind="weather")
    temperatures = np.random.default_rng(1).normal(8, 4, 400).round(1)

    def take(name: str, values: Sequence[float]) -> str:
        lines = [((START + i * HOUR).isoformat(), value) for i, value in enumerate(values)]
        file = csv_file(name, "timestamp,temperature", lines)
        return ai_hub("ingest", "weather", file, "--tenant", tenant, "--asset", "m").stdout

    broken = temperatures.copy()
    broken[100:130] = 7.5
    assert "frozen_weather m: temperature 7.5 in 30 rows" in take("a.csv", broken)
    assert found(ai_hub, tenant) == [("frozen_weather", 100, 129, True)]
    assert "No longer so: 1 frozen_weather" in take("b.csv", temperatures)
