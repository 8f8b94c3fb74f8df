"""Chunks cover every asset and time of a window once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ai_hub.exports.export import months
from ai_hub.exports.reading import Span, chunks

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
MINUTES = st.integers(0, 200 * 24 * 60)
SPANS = st.lists(st.none() | st.tuples(MINUTES, MINUTES).map(sorted), max_size=8)


def _at(minute: int) -> datetime:
    return EPOCH + timedelta(minutes=minute)


@given(
    spans=SPANS,
    start=MINUTES,
    length=st.integers(1, 100_000),
    rows=st.integers(1, 5000),
    by_month=st.booleans(),
)
def test_chunks__hold_every_asset_and_time_once_in_the_order_of_the_files(
    spans: list[list[int] | None], start: int, length: int, rows: int, by_month: bool
) -> None:
    assets = [
        Span(f"{number:02}", ((_at(span[0]), _at(span[1])),) if span else None)
        for number, span in enumerate(spans)
    ]
    first, end = _at(start), _at(start + length)
    found = chunks(assets, first, end, rows=rows, by_month=by_month)
    covered: dict[str, datetime] = dict.fromkeys((span.asset for span in assets), first)
    for chunk in found:
        for asset in chunk.assets:
            assert covered[asset] == chunk.start
            covered[asset] = chunk.end
        sizes = [span.rows(chunk.start, chunk.end) for span in assets if span.asset in chunk.assets]
        assert len(sizes) == 1 or sum(sizes) <= rows
        if by_month:
            last = chunk.end - timedelta(microseconds=1)
            assert (chunk.start.year, chunk.start.month) == (last.year, last.month)
    assert set(covered.values()) <= {end}
    assert [(chunk.start, chunk.assets) for chunk in found] == sorted(
        (chunk.start, chunk.assets) for chunk in found
    )


def test_months__end_where_calendars_do() -> None:
    start, end = datetime(2024, 1, 31, 5, tzinfo=UTC), datetime(2024, 3, 1, 0, 30, tzinfo=UTC)
    february, march = datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)
    assert list(months(start, end)) == [(start, february), (february, march), (march, end)]


def test_rows__are_counted_inside_the_span() -> None:
    span = Span("a", ((EPOCH, EPOCH + timedelta(hours=9)),))
    assert span.rows(EPOCH - timedelta(days=9), EPOCH + timedelta(days=9)) == 34
    assert span.rows(EPOCH + timedelta(days=5), EPOCH + timedelta(days=9)) == 0
    apart = Span("a", ((EPOCH, EPOCH), (EPOCH + timedelta(days=9000), EPOCH + timedelta(days=9000, hours=1))))
    assert apart.rows(EPOCH - timedelta(days=9), EPOCH + timedelta(days=9999)) == 25 + 26
    assert Span("a", None).rows(EPOCH, EPOCH + timedelta(hours=3)) == 3
