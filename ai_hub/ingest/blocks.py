"""What every reader of files gives: blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# About 100,000 rows of a narrow CSV: large enough to work on columns, small enough to hold many times over.
BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 100_000


@dataclass(frozen=True)
class Malformed:
    """A line that is no row."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Block:
    """Consecutive rows under the file's own column names, indexed by line (Parquet: row) number.

    Where one line has many readings, the index counts them and a column `line` has the line.
    """

    cells: pd.DataFrame
    malformed: list[Malformed]
    #: Share of the file read so far, 0 to 1.
    fraction: float


class Source(Protocol):
    """A file opened for one pass or more."""

    columns: list[str]
    #: Lines before the header, split into fields.
    preamble: list[list[str]]
    #: What was guessed.
    notes: list[str]

    @property
    def delimiter(self) -> str | None:
        """Between fields; None where the format has none."""

    @property
    def meters(self) -> list[str] | None:
        """Meters in the file, where its format says them beforehand."""

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Yield the file's rows with these columns."""


def original(name: str) -> str:
    """Column with the cells of a field as the file has them, where they were changed to be read."""
    return f"{name} as written"


def as_written(cells: pd.DataFrame, fields: Sequence[str]) -> tuple[Iterable[int], Iterable[tuple[Any, ...]]]:
    """Lines and original cells of rows."""
    shown = {
        name: cells[original(name)].where(cells[original(name)].notna(), cells[name])
        if original(name) in cells
        else cells[name]
        for name in fields
    }
    lines = cells["line"] if "line" in cells and "line" not in fields else cells.index
    return lines, zip(*shown.values(), strict=True)
