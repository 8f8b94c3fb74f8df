"""Files of every shape, read in small blocks."""

from __future__ import annotations

import csv
import gzip
import io
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.ingest import tables
from ai_hub.ingest.reader import open_source

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, columns: list[str] | None = None) -> tuple[dict[int, tuple[str, ...]], dict[int, str]]:
    """Rows and malformed lines by line number."""
    rows: dict[int, tuple[str, ...]] = {}
    malformed: dict[int, str] = {}
    with open_source(path) as opened:
        for block in opened.blocks(columns or opened.columns):
            assert 0 <= block.fraction <= 1
            rows |= dict(zip(block.cells.index, block.cells.itertuples(index=False, name=None), strict=True))
            malformed |= {bad.line: bad.text for bad in block.malformed}
    return rows, malformed


@pytest.fixture(params=[1 << 20, 64], ids=["one block", "many blocks"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tables, "BLOCK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv__looked_at_twice_at_once__loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A look that ends early still reads ahead, in a thread."""
    monkeypatch.setattr(tables, "BLOCK_BYTES", 4096)
    text = "a,b\n" + "".join(f"{number},{number}\n" for number in range(20_000))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with open_source(path) as opened:
        first = opened.blocks(["a"])
        begun = len(next(first).cells)
        assert sum(len(block.cells) for block in opened.blocks(["b"])) == 20_000
        assert begun + sum(len(block.cells) for block in first) == 20_000


@pytest.mark.usefixtures("block_bytes")
def test_csv__malformed_and_blank_lines__keep_every_line_number(tmp_path: Path) -> None:
    lines = ["a,b"]
    rows, malformed = {}, {}
    for number in range(2, 200):
        if number % 17 == 0:
            lines.append("")
        elif number % 13 == 0:
            lines.append(f"{number},x,y")
            malformed[number] = lines[-1]
        elif number % 11 == 0:
            lines.append(f"{number}")
            malformed[number] = lines[-1]
        else:
            lines.append(f"{number},{number * 2}")
            rows[number] = (str(number), str(number * 2))
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines) + "\n")
    assert read(path) == (rows, malformed)


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv__any_delimiter_with_byte_order_mark_and_crlf__is_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "x.csv"
    text = delimiter.join(["start", "value"]) + "\r\n" + delimiter.join(["2024-01-01", "1"]) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(path) == ({2: ("2024-01-01", "1")}, {})


@pytest.mark.usefixtures("block_bytes")
def test_csv__compressed__is_read_the_same(tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f"{i},{i}\n" for i in range(500))
    (tmp_path / "x.csv").write_text(text)
    with gzip.open(tmp_path / "x.csv.gz", "wt") as out:
        out.write(text)
    assert read(tmp_path / "x.csv.gz") == read(tmp_path / "x.csv")


def test_csv__without_rows__is_empty(tmp_path: Path) -> None:
    for text in ("a,b\n", "a,b"):
        (tmp_path / "x.csv").write_text(text)
        assert read(tmp_path / "x.csv") == ({}, {})


def test_csv__only_malformed_lines__are_all_reported(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1\n2\n3,4,5\n")
    assert read(tmp_path / "x.csv") == ({}, {2: "1", 3: "2", 4: "3,4,5"})


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=8)] * 2),
        max_size=30,
    )
)
def test_csv__quoted_text__comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("quoted") / "x.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    expected = {line: row for line, row in enumerate(rows, start=2) if row != ("", "")}
    assert read(path) == (expected, {})


def test_parquet__column_subset__is_read_with_row_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_ROWS", 3)
    pd.DataFrame({"a": range(10), "b": range(10, 20)}).to_parquet(tmp_path / "x.parquet")
    rows, malformed = read(tmp_path / "x.parquet", ["b"])
    assert rows == {i + 1: (i + 10,) for i in range(10)}
    assert malformed == {}


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.docx", b"PK", "not supported"),
        ("x.xlsx", b"PK", "cannot be read"),
        ("x.csv", b"", "empty"),
        ("x.csv.gz", b"not gzip", "cannot be read"),
        ("x.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-9], "cannot be read"),
        ("x.parquet", b"not parquet", "cannot be read"),
        ("x.csv", b"a,b\n1,\x81\xfe\n", "cannot be read"),
    ],
)
def test_open_source__unusable_file__is_refused(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=text):
        read(tmp_path / name)


def test_open_source__no_file__is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"x\.csv"):
        read(tmp_path / "x.csv")


@pytest.mark.usefixtures("block_bytes")
def test_csv__line_with_something_only_in_other_columns__is_no_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,other\n1,2,\n,,note\n\n,,\n3,4,\n")
    assert read(path, ["b", "a"]) == ({2: ("2", "1"), 3: ("", ""), 6: ("4", "3")}, {})
