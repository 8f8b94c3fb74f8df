"""Registers by the command line: stored as what was counted, or named by a finding."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ai_hub.ingest.detection import RegisterDetector
from ai_hub.times import to_micros

if TYPE_CHECKING:
    from conftest import AiHub, CsvFile, ReadingsOf, Rows

CUMUL = Path(__file__).parents[2] / "unit" / "ingest" / "cases" / "cumul.csv"
START = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def counted(hours: int) -> dict[tuple[str, datetime], tuple[float, str]]:
    return {("m", START + at * HOUR): (3.0, "good") for at in range(hours)}


def test_ingest__register__is_stored_as_what_was_counted(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf, rows: Rows
) -> None:
    del csv_file
    file = ("ingest", "readings", CUMUL, "--tenant", tenant, "--asset", "m")
    command = (*file, "--reading", "register", "--unit", "kWh")
    shown = ai_hub(*command, "--dry-run")
    assert "m: 2026-10-01 00:00:00Z, in UTC" in shown.stdout, shown.stderr
    # neither a register nor stuck, though it counts as much in every hour
    assert "Found" not in (result := ai_hub(*command)).stdout
    assert (result.returncode, "24 inserted" in result.stdout) == (0, True), result.stderr
    assert readings_of(tenant) == counted(23)
    lengths = rows("SELECT DISTINCT interval_seconds FROM timeseries_data WHERE tenant_id = %s", tenant)
    assert lengths == [(3600,)]
    assert "24 unchanged" in ai_hub(*command).stdout
    # the next file says nothing: the asset does
    assert "24 unchanged" in ai_hub(*file).stdout
    refused = ai_hub(*file, "--reading", "energy")
    assert (refused.returncode, "registered as register" in refused.stderr) == (2, True)


def test_ingest__register_as_if_amounts__is_named_and_becomes_one_by_the_option(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf, rows: Rows
) -> None:
    del csv_file
    file = ("ingest", "readings", CUMUL, "--tenant", tenant, "--asset", "m")
    result = ai_hub(*file, "--unit", "kWh")
    assert (
        "looks_like_register m: never falls from 45000 at 2026-10-01 00:00Z to 45069 at 2026-10-01 23:00Z:"
        " if it is a register, say `ai-hub asset add ASSET --reading register`"
    ) in result.stdout
    assert "looks_like_register" not in ai_hub(*file).stdout
    refused = ai_hub(*file, "--reading", "register")
    assert refused.returncode == 2
    assert "`ai-hub asset add --reading register` says what they are" in refused.stderr
    assert readings_of(tenant)["m", START] == (45000.0, "good")
    said = ai_hub("asset", "add", "m", "--tenant", tenant, "--reading", "register", "--digits", 6)
    assert "register, 6 digits" in said.stdout, said.stderr
    assert readings_of(tenant) == counted(23)
    open_kinds = "SELECT kind FROM data_findings WHERE tenant_id = %s AND resolved_at IS NULL"
    assert rows(open_kinds, tenant) == []
    wrong = ai_hub("asset", "add", "n", "--tenant", tenant, "--unit", "kW", "--reading", "register")
    assert (wrong.returncode, "kW is not a unit of register" in wrong.stderr) == (2, True)
    wrong = ai_hub("asset", "add", "n", "--tenant", tenant, "--digits", 6)
    assert (wrong.returncode, "Say --reading register" in wrong.stderr) == (2, True)
    assert ai_hub(*file, "--digits", 5).returncode == 2


def test_ingest__registers_and_amounts_in_one_file__each_go_where_they_belong(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf
) -> None:
    ai_hub("asset", "add", "m", "--tenant", tenant, "--unit", "MWh", "--reading", "register")
    ai_hub("asset", "add", "n", "--tenant", tenant, "--unit", "kWh", "--interval", "1h")
    lines = [(START + at * HOUR, name, value) for at, value in enumerate((1000, 4000, 9000)) for name in "mn"]
    file = csv_file("x.csv", "time,asset,kWh", [(at.isoformat(), *rest) for at, *rest in lines])
    result = ai_hub("ingest", "readings", file, "--tenant", tenant)
    assert "6 inserted" in result.stdout, result.stderr
    assert {key: value for key, (value, _) in readings_of(tenant).items()} == {
        ("m", START): pytest.approx(3.0),
        ("m", START + HOUR): pytest.approx(5.0),
        **{("n", START + at * HOUR): value for at, value in enumerate((1000.0, 4000.0, 9000.0))},
    }


def test_backfill__files_of_a_register_in_any_order__say_what_cannot_be_counted_until_it_can(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf
) -> None:
    def file(name: str, readings: dict[int, float]) -> Path:
        return csv_file(
            name,
            "time,value",
            [((START + at * HOUR).isoformat(), value) for at, value in readings.items()],
        )

    late = file("late.csv", {4: 45_012, 5: 45_015, 6: 0, 7: 3})
    early = file("early.csv", {0: 45_000, 1: 45_003})
    middle = file("middle.csv", {2: 45_006, 3: 45_009})
    options = ("--tenant", tenant, "--asset", "m", "--unit", "kWh", "--reading", "register")
    result = ai_hub("backfill", late, early, *options)
    assert result.returncode == 0, result.stderr
    assert "register_fault m: register fell from 45015 to 0 between 2026-10-01 05:00Z" in result.stdout
    assert "register_gap m: 9 in the 3 h from 2026-10-01 01:00Z to 2026-10-01 04:00Z is not" in result.stdout
    assert readings_of(tenant).keys() == {("m", START + at * HOUR) for at in (0, 4, 6)}
    result = ai_hub("ingest", "readings", middle, *options)
    assert "No longer so: " in result.stdout
    assert "1 register_gap" in result.stdout
    assert readings_of(tenant) == counted(5) | {("m", START + 6 * HOUR): (3.0, "good")}


@pytest.mark.parametrize("part", [1, 2, 7, 500])
@pytest.mark.parametrize(
    ("values", "want"),
    [
        # 30 hours that rise; one that falls in between; less than 20 hours; idle but for a little
        ([45_000.0 + at for at in range(31)], (0, 30)),
        ([*range(5), *range(25)], (5, 29)),
        ([*range(12), *range(15), *range(19)], None),
        ([0.0] * 200 + [1.0, 2.0, 3.0], None),
        ([*range(22), *range(40)], (22, 61)),
        ([float(at % 24) for at in range(100)], (0, 23)),
        ([float(at % 12) for at in range(100)], None),
    ],
)
def test_rising__the_longest_stretch__is_found_whatever_the_parts(
    part: int, values: list[float], want: tuple[int, int] | None
) -> None:
    times = np.array([to_micros(START + at * HOUR) for at in range(len(values))])
    rising = RegisterDetector()
    for at in range(0, len(values), part):
        rising.feed(times[at : at + part], np.array(values[at : at + part], dtype=float))
    actual = rising.longest
    if want is None:
        assert actual is None
        return
    assert actual is not None
    first, last = want
    assert (actual.first, actual.last) == (START + first * HOUR, START + last * HOUR)
    readings = last - first + 1
    assert actual.detail == {"readings": readings, "from": values[first], "to": values[last]}
