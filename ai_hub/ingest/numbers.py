"""Number formats of files: decimal point or comma, thousands separators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Characters that can only separate groups of digits: blanks, apostrophes.
_BLANKS = " \u00a0\u202f'\u2019"
_OTHER = {".": ",", ",": "."}
_AMBIGUOUS = r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"
_PLAIN_POINT = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$"


@dataclass(frozen=True)
class NumberFormat:
    """Number format of a file."""

    decimal: str = "."
    #: Thousands separator; empty where no cell has one.
    thousands: str = ""


POINT = NumberFormat()


class Evidence:
    """Evidence of the number format, collected from the cells of a file."""

    def __init__(self) -> None:
        #: Example of a cell that allows this decimal mark only, by mark.
        self.certain: dict[str, str] = {}
        #: Unambiguous thousands separators.
        self.grouped: set[str] = set()
        #: Example of a cell whose separator may be either, by separator.
        self.ambiguous: dict[str, str] = {}

    def note(self, column: pd.Series[Any]) -> None:
        """Collect the evidence of a column of text; others have none."""
        if column.dtype != object and not isinstance(column.dtype, pd.StringDtype):
            return
        try:
            cells = pa.array(column, type=pa.string(), from_pandas=True)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            cells = pa.array(column[column.map(_is_text)], type=pa.string())
        cells = pc.utf8_trim_whitespace(cells)
        for _ in range(2):  # a match cannot overlap another of the same pass
            cells = pc.replace_substring_regex(cells, rf"(\d)[{_BLANKS}](\d{{3}})", r"\1\2")
        for mark in (".", ","):
            cells_with = cells.filter(pc.match_substring(cells, mark))
            if not len(cells_with):
                continue
            for certainal, pattern in _decimal_patterns(mark):
                if match := _first(cells_with, pattern):
                    self.certain.setdefault(certainal, match)
            if _first(cells_with, _grouped_pattern(mark)):
                self.grouped.add(mark)
            if match := _first(cells_with, _AMBIGUOUS):
                self.ambiguous.setdefault(mark, match)


def detect_format(
    columns: Iterable[list[pd.Series[Any]]],
    *,
    delimiter: str | None,
    decimal: str | None = None,
    thousands: str | None = None,
) -> NumberFormat:
    """The number format of a file, from options or from its cells.

    Args:
        columns: The columns of numbers, block by block; read only as far as needed.
        delimiter: Of the file; in a comma-separated file a lone point is the decimal point.
        decimal: Option, `.` or `,`.
        thousands: Option, thousands separator.

    Raises:
        BadInputError: the cells are ambiguous or contradict each other.
    """
    if decimal is not None:
        return NumberFormat(decimal, _OTHER[decimal] if thousands is None else thousands)
    evidence = Evidence()
    for block in columns:
        for column in block:
            evidence.note(column)
        if evidence.certain:
            break
    if len(evidence.certain) > 1:
        raise BadInputError(
            "The file has numbers with decimal comma and with decimal point:"
            f" {evidence.certain[',']!r} and {evidence.certain['.']!r}.",
            hint="Say --decimal ',' or --decimal '.': numbers of the other kind are then rejected.",
        )
    if evidence.certain:
        mark = next(iter(evidence.certain))
        group = _OTHER[mark] if _OTHER[mark] in evidence.grouped else ""
        return NumberFormat(mark, group if thousands is None else thousands)
    if thousands in _OTHER:
        return NumberFormat(_OTHER[thousands], thousands)
    lone_points = delimiter in {",", None} and set(evidence.ambiguous) == {"."}
    if evidence.ambiguous and not lone_points:
        cell = next(iter(evidence.ambiguous.values()))
        integer, fraction = re.split("[.,]", cell)
        raise BadInputError(
            f"The file does not show whether {cell!r} is {integer}.{fraction} or {integer}{fraction}.",
            hint="Say --decimal '.' or --decimal ',' .",
        )
    return NumberFormat(".", thousands or "")


def are_plain(column: pd.Series[Any]) -> bool:
    """Whether every cell is a number with a decimal point, or the column is not text."""
    if column.dtype != object and not isinstance(column.dtype, pd.StringDtype):
        return True
    try:
        cells = pa.array(column, type=pa.string(), from_pandas=True)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False
    return bool(_matches(cells, _PLAIN_POINT).all())


def to_plain(column: pd.Series[Any], form: NumberFormat, name: str) -> tuple[pd.Series[Any], pd.Series[str]]:
    """Numbers as text with a decimal point and no thousands separators, and why a cell is rejected.

    Text that is not a number in any format is returned unchanged.
    """
    reason = pd.Series("", index=column.index, dtype=object)
    if column.dtype != object and not isinstance(column.dtype, pd.StringDtype):
        return column, reason
    try:
        cells = pa.array(column, type=pa.string(), from_pandas=True)
    except (pa.ArrowTypeError, pa.ArrowInvalid):  # a spreadsheet has numbers and texts in one column
        texts = column[column.map(_is_text)]
        plain, why = to_plain(texts, form, name)
        reason.loc[why.index] = why
        return column.where(~column.index.isin(plain.index), plain.reindex(column.index)), reason
    if form.decimal == ".":
        unusual = ~_matches(cells, _PLAIN_POINT)
        if not unusual.any():
            return column, reason
        column = column.copy()
        column[unusual], reason[unusual] = _unusual_to_plain(column[unusual], form, name)
        return column, reason
    return _unusual_to_plain(column, form, name)


def _unusual_to_plain(
    column: pd.Series[Any], form: NumberFormat, name: str
) -> tuple[pd.Series[Any], pd.Series[str]]:
    """`to_plain` by regular expressions over the whole column."""
    mark, other = form.decimal, _OTHER[form.decimal]
    cells = pc.utf8_trim_whitespace(pa.array(column, type=pa.string(), from_pandas=True))
    cells = pc.replace_substring(cells, "\u2212", "-")
    escaped = re.escape(mark)
    plain = _matches(cells, rf"^[+-]?(?:\d+(?:{escaped}\d*)?|{escaped}\d+)(?:[eE][+-]?\d+)?$")
    group = "[" + re.escape(other) + _BLANKS + "]"
    grouped = _matches(cells, rf"^[+-]?\d{{1,3}}(?:{group}\d{{3}})+(?:{escaped}\d*)?$")
    is_certain = _matches(cells, rf"^[+-]?\d{{1,3}}(?:{group}\d{{3}}){{2,}}$|{escaped}|[{_BLANKS}]")
    is_uncertain = grouped & ~is_certain & (form.thousands != other)
    ambiguous = _matches(cells, _AMBIGUOUS)
    foreign = _matches(cells, rf"^[+-]?\d*[.,\d{_BLANKS}]*\d$") & ~plain & ~grouped
    normalized = pc.replace_substring_regex(cells, group, "")
    normalized = pc.replace_substring(normalized, mark, ".") if mark != "." else normalized
    result = column.copy()
    readable = plain | (grouped & ~is_uncertain)
    result[readable] = pd.Series(normalized.to_numpy(zero_copy_only=False), index=column.index, dtype=object)[
        readable
    ]
    reason = pd.Series("", index=column.index, dtype=object)
    mark_name = "comma" if mark == "," else "point"
    reason[foreign] = f"{name} is not a number with decimal {mark_name} (see --decimal and --thousands)"
    reason[is_uncertain & ambiguous] = (
        f"{name} could be a decimal number or a thousand (see --thousands {other})"
    )
    reason[is_uncertain & ~ambiguous] = reason[foreign & ambiguous] = (
        f"{name} has digits in groups that no other number of the file has (see --thousands {other})"
    )
    return result, reason


def _decimal_patterns(mark: str) -> list[tuple[str, str]]:
    """Decimal marks that a cell containing `mark` can prove, with the pattern of such cells."""
    here, other = re.escape(mark), re.escape(_OTHER[mark])
    decimal = (
        rf"^[+-]?(?:\d{{4,}}{here}\d+|0\d*{here}\d+|{here}\d+|\d+{here}(?:\d{{1,2}}|\d{{4,}})"
        rf"|\d{{1,3}}(?:{other}\d{{3}})+{here}\d+)(?:[eE][+-]?\d+)?$"
    )
    return [(mark, decimal), (_OTHER[mark], rf"^[+-]?\d{{1,3}}(?:{here}\d{{3}}){{2,}}(?:{other}\d+)?$")]


def _grouped_pattern(mark: str) -> str:
    """Pattern of cells in which `mark` can only separate thousands."""
    here, other = re.escape(mark), re.escape(_OTHER[mark])
    return rf"^[+-]?\d{{1,3}}(?:(?:{here}\d{{3}})+{other}\d+|(?:{here}\d{{3}}){{2,}})$"


def _matches(cells: pa.Array, pattern: str) -> Any:
    return pc.match_substring_regex(cells, pattern).fill_null(False).to_numpy(zero_copy_only=False)


def _is_text(cell: object) -> bool:
    return isinstance(cell, str)


def _first(cells: pa.Array, pattern: str) -> str | None:
    index = pc.index(pc.match_substring_regex(cells, pattern), True).as_py()
    return None if index < 0 else str(cells[index].as_py())
