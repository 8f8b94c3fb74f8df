"""How often a meter reads, told from its readings, and which silence is therefore too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Micros: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

SECOND = 1_000_000
#: Readings are judged by those of the same week, counted from 1970, so any part of a series can be
#: judged anew without the rest.
BLOCK = 7 * 86_400 * SECOND
_FEWEST_STEPS = 3
_TOLERANCE = 0.1
_GAP_INTERVALS = 1.5
_GAP_MEDIANS = 10
_STRETCH = 12
UNKNOWN = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cadence:
    """What is normal for the steps of one block."""

    #: Commonest step; 0 where the series is irregular or too short to tell.
    interval: int = 0
    #: A longer step is a gap; `UNKNOWN` where nothing can be told.
    longest: int = UNKNOWN


def cadence(steps: Micros) -> Cadence:
    """The cadence of a block from the steps between its readings.

    Regular, if at least half of the steps are within a tenth of the commonest (in whole seconds): a gap is
    more than one and a half of it. Irregular otherwise: a gap is more than ten median steps.
    """
    if len(steps) < _FEWEST_STEPS:
        return Cadence()
    seconds = (steps + SECOND // 2) // SECOND
    lengths, counts = np.unique(seconds, return_counts=True)
    commonest = int(lengths[counts.argmax()])
    if commonest == 0:
        return Cadence()
    near = np.abs(seconds - commonest) <= commonest * _TOLERANCE
    if near.mean() * 2 >= 1:
        return Cadence(commonest * SECOND, int(commonest * SECOND * _GAP_INTERVALS))
    return Cadence(0, int(np.median(steps) * _GAP_MEDIANS))


def steady(steps: Micros) -> Flags:
    """Steps in a stretch of twelve or more equal ones: a cadence of its own, as after a change of meter."""
    seconds = (steps + SECOND // 2) // SECOND
    starts = np.flatnonzero(np.diff(seconds, prepend=-1))
    lengths = np.diff(starts, append=len(seconds))
    return np.repeat(lengths >= _STRETCH, lengths)


def gaps(times: Micros) -> tuple[Flags, Micros]:
    """Of whole blocks: whether the step before each reading is a gap, and the interval expected there (or 0).

    A step from one block to another is judged by the block it starts in, or else by the one it ends in.
    """
    blocks = times // BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    ends = np.append(starts[1:], len(times))
    steps = np.diff(times, prepend=times[:1])
    found = [cadence(steps[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
    interval = np.repeat([each.interval for each in found], ends - starts)
    longest = np.repeat([each.longest for each in found], ends - starts)
    heads = starts[1:]
    by_start = longest[heads - 1] != UNKNOWN
    interval[heads] = np.where(by_start, interval[heads - 1], interval[heads])
    longest[heads] = np.where(by_start, longest[heads - 1], longest[heads])
    is_gap = steps > longest
    for start, end in zip(starts, ends, strict=True):
        inner = slice(start + 1, end)
        if is_gap[inner].any():
            is_gap[inner] &= ~steady(steps[inner])
    return is_gap, interval
