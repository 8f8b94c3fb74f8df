"""Of entities that a killed run has written, only what it could not have read is read again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from feast_plugins.materialize.plan import WrittenRange, latest
from feast_plugins.postgres.sources import Source


def test_latest__after_a_killed_run__reads_what_it_could_not_have() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    source = Source("t", ("k", "l"), ("f col",), "time", "made")
    written = WrittenRange(["it's", 1], now, now)
    text = latest(source, now, now, written, timedelta(minutes=10)).as_string(None)
    assert (
        'FROM (SELECT * FROM t AS rows WHERE ("k", "l") > (\'it\'\'s\', 1) OR "time" > \'2026-01-02' in text
    )
    assert '"made" > \'2026-01-01 23:50:00+00:00\'::timestamptz OR "made" IS NULL) AS source' in text


def test_latest__without_a_killed_run__reads_everything() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    text = latest(Source("t", ("k",), ("f",), "time", None), now, now, None, timedelta()).as_string(None)
    assert " FROM t AS source WHERE " in text
