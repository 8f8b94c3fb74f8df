"""Files of the trade as they are understood: instants, values, intervals, units and quality."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trade_files import END, INPUTS, Input

from ai_hub.errors import BadInputError
from ai_hub.ingest import localizer, numbers
from ai_hub.ingest.datasets import Readings, Weather
from ai_hub.ingest.numbers import NumberFormat
from ai_hub.ingest.options import DateOrder, Options, Reading, TemperatureUnit, TimestampFormat
from ai_hub.ingest.pipeline import Preview, preview
from ai_hub.ingest.report import preview_lines, preview_table

CASES = Path(__file__).parent / "cases"
NOW = pd.Timestamp("2027-01-01", tz="UTC")


def look(path: Path, *, weather: bool = False, **given: Any) -> Preview:
    options = Options(**{"tenant": "t", "asset": "a"} | given)
    if options.interval is not None:
        options = Options(**vars(options) | {"interval": pd.Timedelta(options.interval).to_pytimedelta()})
    hour = pd.Timedelta(timedelta(hours=1))
    dataset = (
        Weather(NOW, options.timestamp_format, TemperatureUnit.CELSIUS, hour)
        if weather
        else Readings(now=NOW)
    )
    return preview(None, path, dataset, options)


def rows_of(shown: Preview) -> list[tuple[Any, ...]]:
    """First instant, value, minutes, unit, quality and asset of each row that is shown."""
    found = []
    for row in preview_table(shown.rows):
        start, end = (row[name] and pd.Timestamp(row[name]) for name in ("start_utc", "end_utc"))
        minutes = end and (end - start) / pd.Timedelta(minutes=1)
        value = row.get("value", row.get("temperature"))
        found.append(
            (
                start.strftime("%Y-%m-%d %H:%M"),
                value,
                minutes,
                row.get("unit", ""),
                row.get("quality"),
                row["asset_id"],
            )
        )
    return found


def agree(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    """Each expected row is there, in order, as far as it says anything."""
    assert len(found) >= min(len(expected), 10)
    for got, right in zip(found, expected, strict=False):
        for one, other in zip(got, right, strict=False):
            if other is not None:
                assert one == (pytest.approx(other) if isinstance(other, float) else other), (got, right)


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case.name)
def test_file__of_the_trade__is_read_or_refused_as_it_should(tmp_path: Path, case: Input) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    if case.refused is not None:
        with pytest.raises(BadInputError) as refused:
            look(path, **case.options)
        assert case.refused in str(refused.value)
        return
    shown = look(path, **case.options)
    report = shown.report
    agree(rows_of(shown), case.rows)
    assert report.missing == case.missing
    for part, count in case.rejected.items():
        assert sum(n for reason, n in report.reasons.items() if part in reason) == count, report.reasons
    assert report.rejected == sum(case.rejected.values()), report.reasons
    assert not case.note or case.note in "\n".join(report.understood)


MORNING = [("2026-09-30 22:00", 12.5, 15), ("2026-09-30 22:15", 1234.5, 15), ("2026-09-30 22:30", 13.0, 15)]
BERLIN = {"timezone": "Europe/Berlin"}
FLAGS = {"A": "good", "E52": "estimated", "S14": "estimated", "W": "suspect"}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lastgang.csv", {**BERLIN, "profile": "german-load-profile"}, MORNING),
        ("lastgang2.csv", {**BERLIN, "profile": "german-load-profile"}, MORNING),
        ("lastgang.csv", {**BERLIN, "form": END}, [(*row, "kWh") for row in MORNING]),
        (
            "h24.csv",
            {"form": END},
            [("2026-10-01 22:00", 1.0, 60), ("2026-10-01 23:00", 2.0, 60), ("2026-10-02 00:00", 3.0, 60)],
        ),
        ("h24.csv", {}, [("2026-10-01 23:00", 1.0), ("2026-10-02 00:00", 2.0), ("2026-10-02 01:00", 3.0)]),
        ("ab.csv", BERLIN, [("2026-10-25 00:00", 1.0), ("2026-10-25 01:00", 2.0)]),
        ("mesz.csv", {}, [("2026-10-25 00:00", 1.0), ("2026-10-25 01:00", 2.0)]),
        ("mesz.csv", BERLIN, [("2026-10-25 00:00", 1.0), ("2026-10-25 01:00", 2.0)]),
        ("entsoe.csv", {}, [("2026-10-01 00:00", 40000.0, 60, "MW")]),
        ("gbcsv.csv", {}, [("2026-10-01 00:00", 0.35, 60, "kWh"), ("2026-10-01 01:00", 0.37, 60, "kWh")]),
        ("nem12.csv", {}, [("2026-09-30 14:00", 0.1, 30, "kWh", "good")]),
        ("om.csv", {"weather": True}, [("2026-10-01 00:00", 10.1)]),
        (
            "status.csv",
            {"quality_map": FLAGS},
            [(f"2026-10-01 0{i}:00", i + 1.0, 60, "", quality) for i, quality in enumerate(FLAGS.values())],
        ),
        ("utf16.csv", {}, [("2026-10-01 00:00", 1.0)]),
        ("idx.parquet", {}, [("2026-10-31 23:00", 1.0), ("2026-11-01 00:00", 2.0)]),
        ("wh.csv", {}, [("2026-10-01 00:00", 385.0, 60, "Wh"), ("2026-10-01 01:00", 400.0, 60, "Wh")]),
        ("y1970.csv", {}, [("2026-11-29 14:00", 5.0)]),  # the other one is out of bounds
        ("cumul.csv", {}, [("2026-10-01 00:00", 45000.0), ("2026-10-01 01:00", 45003.0)]),
        (
            "cumul.csv",
            {"reading": Reading.REGISTER, "unit": "kWh"},
            [("2026-10-01 00:00", 45000.0, None, "kWh"), ("2026-10-01 01:00", 45003.0, None, "kWh")],
        ),
    ],
)
def test_file__of_the_cases__has_the_right_values(
    name: str, options: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    shown = look(CASES / name, **options)
    agree(rows_of(shown), expected)
    assert shown.report.rejected == (1 if name == "y1970.csv" else 0)
    assert shown.report.missing == (2 if name == "entsoe.csv" else 0)


def test_file__that_ends_days_at_24__says_what_that_suggests() -> None:
    assert "--stamps end" in "\n".join(look(CASES / "h24.csv").report.understood)


def test_file__with_unknown_flags__names_the_option_and_keeps_cells_and_lines() -> None:
    shown = look(CASES / "status.csv")
    assert shown.report.rejected == 4
    assert "--quality-map" in next(iter(shown.report.reasons))
    assert [line for line, _, _ in shown.rejected] == [2, 3, 4, 5]
    assert "quality=E52" in shown.rejected[1][2]
    assert "nothing is written" in "\n".join(preview_lines(shown)).casefold()


NUMBERS = st.decimals(-(10**7), 10**7, places=3, allow_nan=False)
STYLES = st.sampled_from(
    [(".", ""), (",", ""), (",", "."), (".", ","), (",", " "), (".", "'"), (",", "\u202f")]
)


@given(st.lists(NUMBERS, min_size=1, max_size=30), STYLES)
def test_numbers__written_in_any_style__come_back(values: list[Any], style: tuple[str, str]) -> None:
    mark, group = style
    texts = [f"{value:,.3f}".replace(",", "_").replace(".", mark).replace("_", group) for value in values]
    column = pd.Series(texts, dtype=object)
    plain, reason = numbers.to_plain(column, NumberFormat(mark, group), "value")
    assert set(reason) == {""}
    assert list(pd.to_numeric(plain)) == [float(value) for value in values]
    try:
        form = numbers.detect_format([[column]], delimiter=";")
    except BadInputError:
        # every number could be thousands, or none shows the mark
        return
    plain, reason = numbers.to_plain(column, form, "value")
    for text, why, got, value in zip(texts, reason, plain, values, strict=True):
        assert why or float(got) == float(value), (texts, form, text)


WRITTEN = (
    ("%d.%m.%Y %H:%M:%S", None),
    ("%d/%m/%Y %H:%M:%S", DateOrder.DAY),
    ("%m/%d/%Y %I:%M:%S %p", DateOrder.MONTH),
    ("%d-%b-%Y %H:%M:%S", None),
    ("%Y/%m/%d %H:%M:%S", None),
    ("%Y-%m-%d %H:%M:%S %Z", None),
    ("%d.%m.%Y %H:%M:%S (%Z)", None),
)


@given(
    st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)), min_size=1, max_size=20),  # noqa: DTZ001 - UTC
    st.sampled_from(WRITTEN),
    st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Europe/London", "Australia/Sydney", "America/Havana"]
    ),
)
def test_timestamps__written_in_any_form__come_back(
    times: list[datetime], written: tuple[str, DateOrder | None], zone: str
) -> None:
    form, order = written
    instants = [item.replace(microsecond=0, tzinfo=UTC) for item in times]
    texts = pd.Series([item.astimezone(ZoneInfo(zone)).strftime(form) for item in instants], dtype=object)
    zones = pd.Series(zone, index=texts.index)
    found = localizer.instant_ranges(texts, TimestampFormat(order=order), zones)
    assert set(found.reason) == {""}
    for earliest, latest, instant in zip(found.earliest, found.latest, instants, strict=True):
        assert instant in {earliest, latest}
        assert "%Z" not in form or earliest == latest
