"""Paths of exports: plain names below the tenant's folder, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.errors import BadInputError
from ai_hub.exports.export import OutputPathError, check_output_path
from ai_hub.exports.locations import Bucket, local_path, tenant_location
from ai_hub.settings import Settings

HOSTILE = (
    *("/etc/x.parquet", "//host/x.parquet", "~/x.parquet", "C:/x.parquet", "c:x.parquet", "a:b.parquet"),
    *("../x.parquet", "a/../x.parquet", "a/../../x.parquet", "..", ".", "./x.parquet", "a/./x.parquet"),
    *("a\\b.parquet", "..\\x.parquet", "\\\\host\\x.parquet"),
    *("a\0.parquet", "a\n.parquet", "a\r.parquet", "\x1b[2J.parquet", "a\x7f.parquet", "a\u2028.parquet"),
    *("", " ", "a//b.parquet", "a/", "a/ /b.parquet", " a.parquet", "a.parquet ", "a/b.parquet/"),
    *(".hidden.parquet", "a/.x.parquet", "_private/x.parquet", "x", "x.csv", "x.parquet.exe", "a.parquet/b"),
    "/".join(["ü" * 70] * 4) + ".parquet",
    *("unnamed/x.parquet", "Unnamed/x.parquet"),
    *("x" * 200 + ".parquet", "ü" * 90 + ".parquet"),
)
GOOD = (
    "a.parquet",
    "a/b/c-1_2.parquet",
    "Jänner 2026/Zähler.parquet",
    "a..b/c...parquet",
    "a/unnamed/x.parquet",
)


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_path__is_refused(path: str) -> None:
    with pytest.raises(OutputPathError):
        check_output_path(path, partitioned=False)


@pytest.mark.parametrize("path", GOOD, ids=range(len(GOOD)))
def test_plain_path__is_taken(path: str) -> None:
    check_output_path(path, partitioned=False)


def test_folder__needs_no_suffix() -> None:
    check_output_path("by-month", partitioned=True)


@given(st.text(max_size=40).map(lambda text: text + ".parquet"))
def test_whatever_is_taken__stays_below_the_folder(path: str) -> None:
    try:
        check_output_path(path, partitioned=False)
    except OutputPathError:
        return
    home = Path("/exports/city-works")
    assert (home / path).resolve().is_relative_to(home)
    assert (home / path).resolve() != home


def test_links__may_stay_inside_and_never_lead_out(tmp_path: Path) -> None:
    home, other = tmp_path / "city-works", tmp_path / "grid-two"
    home.mkdir()
    other.mkdir()
    (home / "inside").mkdir()
    (home / "in").symlink_to(home / "inside")
    (home / "out").symlink_to(other)
    (home / "file.parquet").symlink_to(other / "file.parquet")
    (home / "loop").symlink_to(home / "loop")
    assert local_path(home, "in/a.parquet") == home / "in" / "a.parquet"
    for path in ("out/a.parquet", "file.parquet", "loop/a.parquet"):
        with pytest.raises(OutputPathError):
            local_path(home, path)


def test_tenants_folder__may_not_be_a_link_to_anothers(tmp_path: Path) -> None:
    (tmp_path / "grid-two").mkdir()
    (tmp_path / "city-works").symlink_to(tmp_path / "grid-two")
    with pytest.raises(OutputPathError):
        local_path(tmp_path / "city-works", "a.parquet")


def test_root__may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "exports").symlink_to(tmp_path / "real")
    place = tmp_path / "exports" / "city-works"
    assert local_path(place, "a.parquet") == place / "a.parquet"


def test_bucket__has_a_prefix_for_each_tenant() -> None:
    def place(root: str) -> object:
        return tenant_location(Settings(export_storage_path=root), "city-works")

    assert place("s3://data/exports/") == Bucket("data", "exports/city-works/")
    assert place("s3://data") == Bucket("data", "city-works/")
    for wrong in ("s3://", "http://data/x", "s3:///x"):
        with pytest.raises(BadInputError):
            place(wrong)
