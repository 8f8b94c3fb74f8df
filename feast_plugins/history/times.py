"""Times as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Stands for a time that is missing.
NO_TIME = np.iinfo(np.int64).min


def microseconds(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970 of Arrow times; `NO_TIME` where there is none."""
    numbers = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
    found: NDArray[np.int64] = numbers.fill_null(NO_TIME).to_numpy()
    return found
