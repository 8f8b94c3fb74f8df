"""What is said of findings: details of few, one line of many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ai_hub.ingest.findings import Finding
from ai_hub.ingest.options import FindingKind, Options
from ai_hub.ingest.report import Report, describe, report_lines

START = datetime(2025, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def gap(at: int, missing: int | None) -> Finding:
    last = START + (at + (missing or 0) + 1) * HOUR
    interval = None if missing is None else 3600
    return Finding(
        FindingKind.GAP, START + at * HOUR, last, {"missing": missing, "interval_seconds": interval}
    )


def test_report_lines__many_findings__are_one_line_that_names_the_longest() -> None:
    actual = [("a" if i % 2 else "b", gap(10 * i, 1 + (i == 4))) for i in range(6)]
    lines = list(report_lines(Report(rows=1, inserted=1, findings=actual), Options(tenant="t")))
    assert lines[1] == "Found for the first time: 6 gap"
    assert lines[2].startswith("  gap 6 times in 2 asset(s), 7 readings missing; the longest: b, 2 missing")
    assert len(lines) == 4


def test_report_lines__nothing_found__says_nothing_of_findings() -> None:
    assert len(list(report_lines(Report(rows=1, inserted=1), Options(tenant="t")))) == 1


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (gap(0, 2), "2 missing between 2025-03-01 00:00Z and 2025-03-01 03:00Z (one every 1 h)"),
        (gap(0, None), "no reading between 2025-03-01 00:00Z and 2025-03-01 01:00Z, far longer than usual"),
        (
            Finding(FindingKind.STUCK, START, START + 12 * HOUR, {"value": 1.5, "readings": 13}),
            "13 readings of 1.5 from 2025-03-01 00:00Z to 2025-03-01 12:00Z",
        ),
    ],
)
def test_describe__finding__is_one_sentence(finding: Finding, text: str) -> None:
    assert describe(finding) == text
