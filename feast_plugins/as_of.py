"""As-of join: the newest feature row at or before each entity row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from feast_plugins.postgres_reads import ViewRead


def newest_rows(
    entities: pa.Table, times: pd.Series[pd.Timestamp], rows: pa.Table, read: ViewRead
) -> pa.Array:
    """Position in `rows` of the answer to each entity row, null where there is none within the TTL.

    Of rows with equal key and time the one created last wins.
    """
    if rows.num_rows == 0:
        return pa.nulls(entities.num_rows, pa.int64())
    by = [f"key_{number}" for number in range(len(read.keys))]
    left = pd.DataFrame({"time": times.to_numpy(), "row": range(entities.num_rows)})
    right = pd.DataFrame({"time": rows[read.time].to_pandas().to_numpy(), "found": range(rows.num_rows)})
    for name, (key, column) in zip(by, read.keys.items(), strict=True):
        left[name] = entities[key].to_pandas()
        right[name] = rows[column].to_pandas()
    order = ["time"]
    if read.created is not None:
        right["created"] = rows[read.created].to_pandas().to_numpy()
        order.append("created")
    merged = pd.merge_asof(
        left.sort_values("time", kind="stable"),
        right.sort_values(order, kind="stable").drop(columns=order[1:]),
        on="time",
        by=by or None,
        tolerance=None if read.ttl is None else pd.Timedelta(read.ttl),
    )
    found = merged.set_index("row")["found"].reindex(range(entities.num_rows))
    return pa.Array.from_pandas(found, type=pa.int64(), safe=False)
