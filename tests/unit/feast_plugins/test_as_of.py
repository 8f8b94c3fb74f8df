from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_plugins.as_of import newest_rows
from feast_plugins.postgres_reads import TIME, ViewRead

START = datetime(2026, 1, 1, tzinfo=UTC)
# pairs whose concatenation is the same, and names with separators, spaces and nothing in them
KEYS = st.tuples(st.sampled_from(["1", "11", "", "a|b", "ü "]), st.sampled_from(["1", "11", "", "b", "|b"]))
MINUTES = st.integers(0, 12).map(lambda step: START + timedelta(minutes=30 * step))
ENTITIES = st.lists(st.tuples(KEYS, MINUTES), min_size=1, max_size=20)
ROWS = st.lists(st.tuples(KEYS, MINUTES, MINUTES), max_size=40)


@settings(deadline=None)  # a busy machine is no failure
@given(ENTITIES, ROWS, st.sampled_from([None, 0, 30, 90]), st.booleans())
def test_newest_rows__any_keys_and_times__equal_a_search_row_by_row(
    entities: list[Any], rows: list[Any], ttl: int | None, created: bool
) -> None:
    ttl_time = None if ttl is None else timedelta(minutes=ttl)
    read = ViewRead(
        view="v",
        source="v",
        keys={"t": "tenant_id", "a": "asset_id"},
        features=(),
        names={},
        time="time",
        created="created" if created else None,
        ttl=ttl_time,
    )
    times = pd.Series(pd.to_datetime([at for _, at in entities], utc=True)).dt.as_unit("us")
    found = newest_rows(
        pa.table({"t": [key[0] for key, _ in entities], "a": [key[1] for key, _ in entities]}),
        times,
        pa.table(
            {
                "tenant_id": pa.array([key[0] for key, _, _ in rows], pa.string()),
                "asset_id": pa.array([key[1] for key, _, _ in rows], pa.string()),
                "time": pa.array([at for _, at, _ in rows], TIME),
                "created": pa.array([made for _, _, made in rows], TIME),
            }
        ),
        read,
    ).to_pylist()

    for (key, at), position in zip(entities, found, strict=True):
        reach = [
            (time, made) if created else (time,)
            for row_key, time, made in rows
            if row_key == key and time <= at and (ttl_time is None or at - time <= ttl_time)
        ]
        if not reach:
            assert position is None
            continue
        row_key, time, made = rows[position]
        assert row_key == key
        assert ((time, made) if created else (time,)) == max(reach)
