"""Files of the trade by the command line: what is stored and rejected, and what a dry run leaves alone."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from support.trade_files import day, nem

if TYPE_CHECKING:
    from conftest import AiHub, CsvFile, EverythingOf, ReadingsOf, Rows

CASES = Path(__file__).parents[2] / "unit" / "ingest" / "cases"
PROFILE = ("--profile", "german-load-profile", "--timezone", "Europe/Berlin")


def test_ingest__german_load_profile__is_stored_at_the_start_of_its_intervals(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf, rows: Rows
) -> None:
    del csv_file
    command = ("ingest", "readings", CASES / "lastgang.csv", "--tenant", tenant, "--asset", "m", *PROFILE)
    result = ai_hub(*command)
    assert result.returncode == 0, result.stderr
    assert "unit kWh, from the column 'Verbrauch [kWh]'" in result.stdout
    at = [datetime(2026, 9, 30, 22, minute, tzinfo=UTC) for minute in (0, 15, 30)]
    assert readings_of(tenant) == {
        ("m", at[0]): (12.5, "good"),
        ("m", at[1]): (1234.5, "good"),
        ("m", at[2]): (13.0, "good"),
    }
    lengths = rows("SELECT DISTINCT interval_seconds FROM timeseries_data WHERE tenant_id = %s", tenant)
    assert lengths == [(900,)]
    assert "3 unchanged" in ai_hub(*command).stdout


def test_ingest__rejected_cells__are_as_the_file_has_them_and_can_be_corrected(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf
) -> None:
    folder = csv_file("x.csv", "a,b", []).parent
    file = folder / "lastgang.csv"
    file.write_text(
        "Lastgang\n\nDatum;Zeit;Wert\n01.10.2026;00:15;1,5\n01.10.2026;00:30;x,5\n31.09.2026;00:45;1\n"
    )
    command = ("ingest", "readings", file, "--tenant", tenant, "--asset", "m", *PROFILE, "--interval", "15m")
    assert ai_hub(*command).returncode == 0
    with Path(f"{file}.rejected.csv").open(newline="") as text:
        rejects = list(csv.DictReader(text))
    kept = [(row["line"], row["Datum"], row["Zeit"], row["Wert"]) for row in rejects]
    assert sorted(kept) == [("5", "01.10.2026", "00:30", "x,5"), ("6", "31.09.2026", "00:45", "1")]
    fixed = folder / "fixed.csv"
    with fixed.open("w", newline="") as text:
        writer = csv.DictWriter(text, rejects[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({**row, "Wert": "2,5", "Datum": "01.10.2026"} for row in rejects)
    again = ai_hub("ingest", "readings", fixed, *command[3:])
    assert "2 inserted" in again.stdout, again.stderr
    assert len(readings_of(tenant)) == 3


def test_ingest__nem12__keeps_quality_and_the_lines_of_what_is_rejected(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, readings_of: ReadingsOf
) -> None:
    file = csv_file("x.csv", "a,b", []).parent / "nem12.csv"
    values = ["1"] * 46 + ["broken", "1"]
    file.write_text(nem(day(values, "S14") + day(["1"] * 3)))
    result = ai_hub("ingest", "readings", file, "--tenant", tenant)
    assert result.returncode == 0, result.stderr
    actual = readings_of(tenant)
    assert len(actual) == 47
    assert {(asset, quality) for (asset, _), (_, quality) in actual.items()} == {
        ("NMI0000001-E1", "estimated")
    }
    with Path(f"{file}.rejected.csv").open(newline="") as text:
        rejects = {row["line"]: row for row in csv.DictReader(text)}
    assert rejects["3"]["value"] == "broken"
    assert rejects["3"]["timestamp"] == "2026-10-01T23:00+10:00"
    assert rejects["4"]["row"].startswith("300,20261001,1,1,1,A")


def test_ingest__dry_run__shows_instants_and_rejects_and_writes_nothing(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub, everything_of: EverythingOf
) -> None:
    folder = csv_file("x.csv", "a,b", []).parent
    before = everything_of(tenant)
    command = ("ingest", "readings", CASES / "lastgang.csv", "--tenant", tenant, "--asset", "m", "--dry-run")
    shown = ai_hub(*command, *PROFILE)
    assert shown.returncode == 0, shown.stderr
    assert "3 would be stored" in shown.stdout
    report = json.loads(ai_hub(*command, *PROFILE, "--json").stdout)
    first = report["rows_read"][0]
    assert first["start_utc"] == "2026-09-30T22:00:00+00:00"
    assert first["end_local"] == "2026-10-01T00:15:00+02:00"
    assert (first["value"], first["unit"], first["quality"]) == (12.5, "kWh", "good")
    rejected = ai_hub(*command[:2], CASES / "status.csv", *command[3:])
    assert rejected.returncode == 1
    assert "line 3: timestamp=2026-10-01T01:00Z, value=2, quality=E52" in rejected.stdout
    assert "--quality-map" in rejected.stdout
    weather = ai_hub("ingest", "weather", CASES / "om.csv", "--tenant", tenant, "--asset", "m", "--dry-run")
    assert "10.1" in weather.stdout
    assert everything_of(tenant) == before
    assert [path.name for path in folder.iterdir()] == ["x.csv"]


def test_ingest__profiles__are_listed_and_an_unknown_one_names_them(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    del csv_file
    listed = json.loads(ai_hub("ingest", "profiles", "--json").stdout)
    assert {"german-load-profile", "entsoe", "nem12", "green-button", "uk-settlement"} <= listed.keys()
    assert "nem12" in ai_hub("ingest", "profiles").stdout
    wrong = ai_hub("ingest", "readings", CASES / "ab.csv", "--tenant", tenant, "--profile", "sap")
    assert wrong.returncode == 2
    assert "nem12" in wrong.stderr


def test_ingest__options_that_contradict_each_other__are_refused(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    del csv_file
    command = ("ingest", "readings", CASES / "ab.csv", "--tenant", tenant, "--asset", "m")
    for wrong in (
        ("--header", 3, "--skip-lines", 2),
        ("--decimal", ",", "--thousands", ","),
        ("--delimiter", "ab"),
        ("--encoding", "klingon"),
        ("--quality-map", "A=fine"),
        ("--where", "register"),
        ("--where", "register=E1"),
        ("--header", 99),
        ("--period", "x"),
    ):
        refused = ai_hub(*command, *wrong)
        assert refused.returncode == 2, (wrong, refused.stdout)
        assert "Traceback" not in refused.stderr
