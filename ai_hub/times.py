"""Times as whole numbers since 1970, and back. A remainder is rounded down; times have a zone."""

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
_DAY = 86_400 * SECOND


def assume_utc(time: datetime) -> datetime:
    """A time with its zone; a naive one is in UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def to_micros(time: datetime) -> int:
    """Microseconds from 1970 to a time."""
    since = time - EPOCH
    return since.days * _DAY + since.seconds * SECOND + since.microseconds


def from_micros(micros: int) -> datetime:
    """The time in UTC that many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=int(micros))


def to_nanos(time: datetime) -> int:
    """Nanoseconds from 1970 to a time."""
    return to_micros(time) * 1000


def from_nanos(nanos: int) -> datetime:
    """The time in UTC that many nanoseconds after 1970, to the microsecond."""
    return from_micros(nanos // 1000)


def to_millis(time: datetime) -> int:
    """Milliseconds from 1970 to a time, as MLflow counts."""
    return to_micros(time) // 1000


def from_millis(millis: int) -> datetime:
    """The time in UTC that many milliseconds after 1970."""
    return from_micros(millis * 1000)
