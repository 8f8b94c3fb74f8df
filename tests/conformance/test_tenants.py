"""No value of one tenant's asset is ever another's, whatever the two are called."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd
import psycopg
import pytest
from conformance.compare import column
from conformance.online import client, read
from conformance.rows import HOUR, T0
from conformance.stores import JOINS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.properties import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.stores import Hosts, Pair

Name = tuple[str, str]
#: Parts of names that end where others start, look alike, or mean something to SQL, arrays, JSON or bytes.
_PARTS = [
    "1",
    "11",
    "",
    "a",
    "\u00e9",
    "e\u0301",
    "A",
    " ",
    "\t",
    "\n",
    "|",
    ":",
    ",",
    ";",
    "/",
    "\\",
    "'",
    '"',
]
_PARTS += [
    "''",
    "$$",
    "{}",
    "{a,b}",
    "NULL",
    "null",
    "None",
    "nan",
    "%",
    "%s",
    "_",
    "--",
    "\x01",
    "\x7f",
    "\U0001f50c",
]
_NAMES = st.lists(st.sampled_from(_PARTS), max_size=3).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8
)
_LONG = "x" * 100_000
COLLIDING = [("1", "11"), ("11", "1"), ("111", ""), ("", "111"), ("1", "1"), ("", "")]
PROPERTY = settings(max_examples=examples(12))


@pytest.fixture(scope="module")
def table(address: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


def fill(table: psycopg.Connection, names: list[Name]) -> dict[Name, float]:
    """One row for each name, with a value that no other has."""
    values = {name: float(number) for number, name in enumerate(dict.fromkeys(names), 1)}
    table.execute("TRUNCATE named")
    with table.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO named VALUES (%s, %s, %s, %s)",
            [(*name, T0, value) for name, value in values.items()],
        )
    return values


@PROPERTY
@example(known=COLLIDING[:2], asked=COLLIDING)
@example(known=COLLIDING, asked=COLLIDING)
@example(known=[("\u00e9", "1"), ("a", _LONG)], asked=[("e\u0301", "1"), ("a", f"{_LONG}x"), ("a", _LONG)])
@given(
    known=st.lists(st.tuples(_NAMES, _NAMES), min_size=1, max_size=8),
    asked=st.lists(st.tuples(_NAMES, _NAMES), max_size=8),
)
def test_tenants__offline(
    pair: Pair, table: psycopg.Connection, known: list[Name], asked: list[Name]
) -> None:
    values = fill(table, known)
    # every tenant with every asset, too
    names = [*known, *asked, *product([tenant for tenant, _ in known], [asset for _, asset in known])]
    frame = pd.DataFrame(names, columns=["tenant_id", "asset_id"]).assign(event_timestamp=pd.Timestamp(T0))
    for store in pair.joins.values():
        found = store.get_historical_features(frame, ["named:value"]).to_arrow()
        assert column(found, "value") == [values.get(name) for name in names]
    span = {"start_date": T0 - HOUR, "end_date": T0 + timedelta(seconds=1)}
    for features in (["named:value"], ["named:value", "named_too:value"]):
        found = pair.ours.get_historical_features(None, features, **span, full_feature_names=True).to_arrow()
        rows = list(zip(column(found, "tenant_id"), column(found, "asset_id"), strict=True))
        for feature in features:
            assert dict(zip(rows, column(found, feature.replace(":", "__")), strict=True)) == values


@PROPERTY
@example(known=COLLIDING[:2], asked=COLLIDING)
@example(known=[("\u00e9", "1\x00"), ("a", _LONG)], asked=[("e\u0301", "1\x00"), ("a", _LONG[1:])])
@given(
    known=st.lists(st.tuples(_NAMES, _NAMES), min_size=1, max_size=8),
    asked=st.lists(st.tuples(_NAMES, _NAMES), max_size=8),
)
def test_tenants__online(pair: Pair, hosts: Hosts, known: list[Name], asked: list[Name]) -> None:
    with client(hosts, 2) as connection:  # that of `pair.ours`
        connection.flushdb()
    values = {name: float(number) for number, name in enumerate(dict.fromkeys(known), 1)}
    rows = pd.DataFrame(list(values), columns=["tenant_id", "asset_id"])
    pair.ours.write_to_online_store("named", rows.assign(event_timestamp=T0, value=list(values.values())))
    names = [*known, *asked, *product([tenant for tenant, _ in known], [asset for _, asset in known])]
    keys = [{"tenant_id": tenant, "asset_id": asset} for tenant, asset in names]
    found = read(pair.ours, ["named:value"], keys)["value"]
    assert [cell.value for cell in found] == [values.get(name) for name in names]


@pytest.mark.parametrize("join", JOINS)
def test_tenants__nul_is_refused(pair: Pair, table: psycopg.Connection, join: str) -> None:
    """Postgres' texts have none, so there is nothing to be found under such a name."""
    fill(table, COLLIDING)
    frame = pd.DataFrame({"tenant_id": ["1\x00", "1"], "asset_id": "1", "event_timestamp": pd.Timestamp(T0)})
    with pytest.raises(Exception, match="NUL"):
        pair.joins[join].get_historical_features(frame, ["named:value"]).to_arrow()
