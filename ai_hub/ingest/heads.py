"""The beginning of a text file: how it is encoded, which line is its header and what separates its fields."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_hub.ingest.formats import FileFormat

#: Where two are as common, the one before: a comma may be part of numbers and names.
DELIMITERS = "\t;|,"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Lines in which a header is looked for.
_MOST_LINES = 60
#: What texts about energy have beside letters; other bytes show that the file is not Windows-1252.
_SIGNS = "°²³€µ§ß—“”·±½\u00a0£©®\u2013\u2018\u2019\u00b4\u00d7"


@dataclass(frozen=True)
class Head:
    """How a text file begins."""

    encoding: str
    delimiter: str
    #: Lines before the first row, with the header.
    skipped: int
    columns: list[str]
    #: Lines before the header, split into fields.
    preamble: list[list[str]]
    notes: list[str]
    #: Whether anything follows the header.
    has_rows: bool


def encoding_of(head: bytes) -> tuple[str, bool]:
    """Encoding of a text by its first bytes, and whether that is a guess.

    Raises:
        BadInputError: neither Unicode nor Windows-1252.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, False
    for first, name in ((0, "utf-16-be"), (1, "utf-16-le")):
        high = head[first:512:2]  # zero in the letters of most alphabets
        if high.count(0) * 2 > len(high):
            return name, True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        try:
            text = head.decode("cp1252")
        except UnicodeDecodeError:
            text = "\0"
        if all(char.isascii() or char.isalpha() or char in _SIGNS for char in text) and "\0" not in text:
            return "cp1252", True
        raise BadInputError(
            f"The file cannot be read as UTF-8 or Windows-1252: byte {head[error.start]:#x}.",
            hint="Say its encoding, for example --encoding cp850 or --encoding latin-1.",
        ) from error
    return "utf-8", False


def read_head(
    head: bytes, form: FileFormat, recognises: Callable[[Sequence[str]], bool] | None, *, complete: bool
) -> Head:
    """How a text file is to be read.

    Args:
        head: Its first bytes.
        form: What is known of it.
        recognises: Whether these fields are the names of columns; without it the first line is the header.
        complete: Whether `head` is the whole file.

    Raises:
        BadInputError: the file is empty, has no such header or is not in the encoding.
    """
    encoding, guessed = (form.encoding, False) if form.encoding else encoding_of(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=complete)
    except (UnicodeError, LookupError) as error:
        raise BadInputError(
            f"The file cannot be read as {encoding}: {error}.", hint="Say its encoding with --encoding."
        ) from error
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    lines = lines if lines[-1] else lines[:-1]
    if not any(line.strip() for line in lines):
        raise BadInputError("The file is empty.", hint="A CSV file starts with a line of column names.")
    notes = [f"encoding {encoding}, because it is not UTF-8 (--encoding)"] if guessed else []
    if form.header == 0:
        row = next(index for index, line in enumerate(lines) if line.strip())
        delimiter = form.delimiter or _commonest(lines[row])
        names = [str(number) for number, _ in enumerate(_split(lines[row], delimiter), 1)]
        return Head(encoding, delimiter, row, names, [], notes, has_rows=True)
    line, delimiter = _header(lines, form, recognises)
    if line and form.header is None:
        notes.append(f"header in line {line + 1}, {line} line(s) before it skipped (--header)")
    preamble = [_split(each, delimiter) for each in lines[:line]]
    has_rows = len(lines) > line + 1 or not complete
    return Head(encoding, delimiter, line + 1, _split(lines[line], delimiter), preamble, notes, has_rows)


def _header(
    lines: list[str], form: FileFormat, recognises: Callable[[Sequence[str]], bool] | None
) -> tuple[int, str]:
    """Index of the header among the lines, and the delimiter."""
    if form.header is not None:
        if form.header > len(lines):
            raise BadInputError(f"The file has no line {form.header}.", hint="Correct --header.")
        line = form.header - 1
        return line, form.delimiter or _commonest(lines[line])
    found: list[tuple[int, str]] = []
    for line, text in enumerate(lines[:_MOST_LINES] if recognises else ()):
        for delimiter in form.delimiter or sorted(DELIMITERS, key=text.count, reverse=True):
            names = _split(text, delimiter)
            following = next((each for each in lines[line + 1 :] if each.strip()), None)
            fits = following is None or len(_split(following, delimiter)) == len(names)
            if len(names) > 1 and recognises is not None and recognises(names):
                if fits:
                    return line, delimiter
                found.append((line, delimiter))
    if found:
        return found[0]
    first = next(index for index, text in enumerate(lines) if text.strip())
    return first, form.delimiter or _commonest(lines[first])


def _commonest(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])
