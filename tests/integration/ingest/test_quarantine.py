"""Rejected rows in the database, and their way back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ai_hub.ingest import rejects

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from conftest import AiHub, CsvFile, Rows


def test_quarantine__rows_of_a_file__are_listed_exported_corrected_and_forgotten(
    tenant: str,
    tmp_path: Path,
    csv_file: CsvFile,
    ai_hub: AiHub,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rejects, "CHUNK_ROWS", 3)
    good = [(f"2025-03-01T{hour:02}:00Z", hour + 1, "m") for hour in range(5)]
    bad = [(f"2025-03-02T{hour:02}:00Z", "1O", "m") for hour in range(7)]
    file = csv_file("m.csv", "start,kWh,meter", [*good, *bad, bad[0], ("2025-03-03", 1)])
    command = ("ingest", "readings", file, "--tenant", tenant, "--columns", "value=kWh")
    for _ in range(2):
        assert ai_hub(*command).returncode == 0
        assert rows("SELECT count(*) FROM quarantined_rows WHERE tenant_id = %s", tenant) == [(9,)]
    listed = json.loads(ai_hub("ingest", "quarantine", "--tenant", tenant, "--json").stdout)
    assert [row["line"] for row in listed] == list(range(7, 16))
    assert listed[0]["cells"] == {"start": "2025-03-02T00:00Z", "kWh": "1O", "meter": "m"}
    assert listed[-1]["cells"] == "2025-03-03,1"
    assert {row["file_name"] for row in listed} == {"m.csv"}
    table = ai_hub("ingest", "quarantine", "--tenant", tenant).stdout
    assert "value is not a number" in table
    assert "No rows" in ai_hub("ingest", "quarantine", "--tenant", f"{tenant}-1").stdout

    out = tmp_path / "again.csv"
    export = ("ingest", "quarantine", "--tenant", tenant, "--csv", out)
    assert f"9 rows are in {out}" in ai_hub(*export).stdout
    out.write_text(out.read_text().replace("1O", "10"))
    result = json.loads(
        ai_hub("ingest", "readings", out, "--tenant", tenant, "--columns", "value=kWh", "--json").stdout
    )
    # the line that could not be split was not corrected
    assert (result["inserted"], result["duplicates"], result["rejected"]) == (7, 1, 1)
    assert "10 rows forgotten" in ai_hub("ingest", "quarantine", "--tenant", tenant, "--clear").stdout
    assert rows("SELECT count(*) FROM quarantined_rows WHERE tenant_id = %s", tenant) == [(0,)]


def test_quarantine__files_with_different_columns__are_exported_one_by_one(
    tenant: str, tmp_path: Path, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    for name, header in (("a.csv", "timestamp,value"), ("b.csv", "time,value")):
        file = csv_file(name, header, [("2025-03-01", "many\x00"), ("2025-03-02", 1)])
        result = ai_hub("ingest", "readings", file, "--tenant", tenant, "--asset", "m")
        assert result.returncode == 0, result.stderr
    export = ("ingest", "quarantine", "--tenant", tenant, "--csv", tmp_path / "out.csv")
    refused = ai_hub(*export)
    assert refused.returncode == 2
    assert "--file NAME" in refused.stderr
    assert ai_hub(*export, "--file", "b.csv", "--clear").returncode == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "line,reason,time,value,row"
    left = json.loads(ai_hub("ingest", "quarantine", "--tenant", tenant, "--json").stdout)
    assert [(row["file_name"], row["cells"]["value"]) for row in left] == [("a.csv", "many\ufffd")]
