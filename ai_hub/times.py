"""Times as numbers: microseconds since 1970, in which arrays and tables hold them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Instants or durations in microseconds.
Micros: TypeAlias = "npt.NDArray[np.int64]"
Flags: TypeAlias = "npt.NDArray[np.bool_]"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: In microseconds.
SECOND = 1_000_000


def to_micros(instant: datetime) -> int:
    """Microseconds from 1970 to an instant."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def to_instant(micros: int) -> datetime:
    """The instant that many microseconds after 1970, in UTC."""
    return EPOCH + timedelta(microseconds=int(micros))
