"""Intervals told by the steps of a file: changes of cadence, gaps, blocks, directions, both stamps."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest

from ai_hub.ingest.normalization import IntervalInference
from ai_hub.ingest.options import Stamps
from ai_hub.ingest.units import UNITS, conversion

START = pd.Timestamp("2026-10-01", tz="UTC")


def tell(minutes: list[int], cuts: list[int] | None = None, stamps: Stamps = Stamps.START) -> list[float]:
    """Intervals in minutes of one asset's readings, in the order of the file, read in blocks."""
    intervals = IntervalInference(stamps)
    actual: list[float] = []
    for start, end in pairwise([0, *(cuts or []), len(minutes)]):
        times = pd.Series([START + pd.Timedelta(minutes=item) for item in minutes[start:end]])
        told, _ = intervals.infer(pd.Series("m", index=times.index), times.astype("datetime64[us, UTC]"))
        actual += (told / 60).tolist()
    return actual


REGULAR = list(range(0, 24 * 60, 30))
CHANGED = [*range(0, 600, 30), *range(600, 900, 15)]


@pytest.mark.parametrize("cuts", [[], [7], [5, 6, 40]])
def test_tell__change_of_cadence__each_reading_has_its_own_interval(cuts: list[int]) -> None:
    assert tell(CHANGED, cuts) == [30.0] * 20 + [15.0] * 20


def test_tell__stamps_at_the_end__the_interval_ends_at_the_stamp() -> None:
    ends = [*range(30, 601, 30), *range(615, 901, 15)]
    assert tell(ends, stamps=Stamps.END) == [30.0] * 20 + [15.0] * 20


def test_tell__file_from_new_to_old__is_the_same() -> None:
    assert tell(CHANGED[::-1], [13]) == ([30.0] * 20 + [15.0] * 20)[::-1]


def test_tell__missing_readings__are_gaps_and_no_cadence() -> None:
    # two in turn are missing: two equal steps of an hour are no hourly meter
    present = [item for item in REGULAR if item not in {300, 360, 720}]
    assert tell(present) == [30.0] * len(present)


def test_tell__one_step__is_taken_where_meters_have_it() -> None:
    assert tell([0, 60]) == [60.0, 60.0]
    assert all(pd.isna(item) for item in [*tell([0]), *tell([0, 47]), *tell([0, 60, 180])])


def test_tell__many_assets_in_one_block__do_not_meet() -> None:
    intervals = IntervalInference(Stamps.START)
    rows = pd.DataFrame(
        [
            (name, START + pd.Timedelta(step) * n)
            for n in range(6)
            for name, step in (("a", "15min"), ("b", "1h"))
        ],
        columns=["asset", "at"],
    )
    told, own = intervals.infer(rows["asset"], rows["at"].astype("datetime64[us, UTC]"))
    assert dict(zip(rows["asset"], told, strict=True)) == {"a": 900.0, "b": 3600.0}
    assert own.sum() == 10
    assert intervals.steady == {"a", "b"}


def test_conversion__wh_and_kwh__rounds_as_little_as_possible() -> None:
    multiplier, divisor = conversion("wh", "kWh") or (0, 0)
    assert 385 * multiplier / divisor == 0.385
    assert conversion("kWh", "kW") is None
    for source, one in UNITS.items():
        for target, other in UNITS.items():
            if one.quantity == other.quantity:
                multiplier, divisor = conversion(source, target) or (0, 1)
                assert multiplier / divisor == pytest.approx(one.size / other.size, rel=1e-15)
