"""History by index probes, by range reads and without entity rows, against a search row by row."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pyarrow as pa
import pytest
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.properties import examples

from feast_plugins.errors import EntityKeysError, EntityTypeError
from feast_plugins.offline import date_range, history
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.history import JoinStrategy, Probes
from feast_plugins.offline.views import AsOfFilter, ViewRead
from feast_plugins.postgres.session import TIME, connect, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adbc_driver_manager import dbapi

START = datetime(2026, 10, 24, 22, tzinfo=UTC)
PARTS = st.sampled_from(["1", "11", "", "a|b", "ü'\\ \"{},", "NULL"])
KEYS = st.tuples(PARTS, PARTS)
TIMES = st.integers(0, 12).map(lambda drawn: START + timedelta(minutes=30 * drawn))
ROWS = st.lists(
    st.tuples(KEYS, TIMES, st.none() | TIMES),
    max_size=30,
    unique_by=lambda row: row,  # no two equal rows
)
ENTITIES = st.lists(st.tuples(KEYS, TIMES), min_size=1, max_size=20)
TTLS = st.sampled_from([None, 30, 90])
PROPERTY = settings(max_examples=examples(20), phases=[Phase.explicit, Phase.reuse, Phase.generate])

READ = {"source": "rows", "time": "time", "names": {"position": "position"}, "features": ("position",)}
BOTH = {"t": "tenant_id", "a": "asset_id"}


@pytest.fixture(scope="module")
def config(native_postgres: str) -> PostgreSQLConfig:
    url = urlsplit(native_postgres)
    assert url.hostname
    assert url.username
    assert url.password
    settings = PostgreSQLConfig(
        host=url.hostname, port=url.port or 0, database=url.path[1:], user=url.username,
        password=url.password, sslmode="disable", db_schema="strategies",
    )  # fmt: skip
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA strategies")
        for table in ("rows", "others", "tenants"):
            connection.execute(
                f"CREATE TABLE strategies.{table} (tenant_id text, asset_id varchar, time timestamptz,"
                " created timestamptz, position bigint)"
            )
    return settings


@contextmanager
def stored(config: PostgreSQLConfig, native_postgres: str, **tables: list[Any]) -> Iterator[dbapi.Connection]:
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        for table, rows in tables.items():
            connection.execute(f"TRUNCATE strategies.{table}")
            with connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO strategies.{table} VALUES (%s, %s, %s, %s, %s)",  # noqa: S608  # our own tables
                    [(*key, time, made, place) for place, (key, time, made) in enumerate(rows)],
                )
    with connect(config) as session:
        yield session


def newest(rows: list[Any], key: Any, at: datetime, ttl: timedelta | None, parts: int = 2) -> int | None:
    """Place of the row that answers, found the slow way; of equal ones, the created last."""
    reach = [
        (time, made or datetime.min.replace(tzinfo=UTC), place)
        for place, (row_key, time, made) in enumerate(rows)
        if row_key[:parts] == key[:parts] and time <= at and (ttl is None or at - time <= ttl)
    ]
    return max(reach)[2] if reach else None


def read_of(view: str, ttl: int | None, keys: dict[str, str], **more: Any) -> ViewRead:
    ttl_time = None if ttl is None else timedelta(minutes=ttl)
    return ViewRead(view=view, keys=keys, created="created", ttl=ttl_time, **(READ | more))


@PROPERTY
@given(rows=ROWS, entities=ENTITIES, ttl=TTLS, block=st.sampled_from([1, 7, 1000]))
def test_join__any_rows__probes_and_range_reads_equal_a_search(
    config: PostgreSQLConfig,
    native_postgres: str,
    rows: list[Any],
    entities: list[Any],
    ttl: int | None,
    block: int,
) -> None:
    # of rows with the same key, time and creation either may answer
    rows = list({(key, time, made): (key, time, made) for key, time, made in rows}.values())
    asked = Entities(
        pa.table(
            {
                "t": [key[0] for key, _ in entities],
                "a": [key[1] for key, _ in entities],
                "at": pa.array([at for _, at in entities], TIME),
            }
        ),
        "at",
    )
    read, other = read_of("v", ttl, BOTH), read_of("w", ttl, BOTH)
    with stored(config, native_postgres, rows=rows) as session, pytest.MonkeyPatch.context() as patch:
        patch.setattr("feast_plugins.offline.history.BLOCK", block)
        for way in JoinStrategy:
            table = history.join(session, asked, [read], AsOfFilter(), strategy=way, full_feature_names=False)
            assert table["position"].to_pylist() == [newest(rows, key, at, read.ttl) for key, at in entities]
        query = history.as_query(session, asked, [read, other], full_feature_names=True)
        assert (
            fetch(session, query)
            .rename_columns([*"ta", "at", "position", "again"])
            .equals(table.append_column("again", table["position"]))
        )


@PROPERTY
@given(rows=ROWS, others=ROWS, tenants=ROWS, ttl=TTLS)
def test_date_range__several_views__equal_a_search_at_every_key_and_time(
    config: PostgreSQLConfig,
    native_postgres: str,
    rows: list[Any],
    others: list[Any],
    tenants: list[Any],
    ttl: int | None,
) -> None:
    start, end = START + timedelta(hours=1), START + timedelta(hours=5)
    reads = [
        read_of("v", ttl, BOTH),
        read_of("w", None, BOTH, source="others", names={"position": "other"}),
        read_of("x", ttl, {"t": "tenant_id"}, source="tenants", names={"position": "tenant"}),
    ]
    with stored(config, native_postgres, rows=rows, others=others, tenants=tenants) as session:
        table = date_range.join(session, reads, start, end, full_feature_names=False)
    actual = {
        ((row["t"], row["a"]), row["event_timestamp"]): (row["position"], row["other"], row["tenant"])
        for row in table.to_pylist()
    }
    assert len(actual) == table.num_rows
    times = table["event_timestamp"].to_pylist()
    assert times == sorted(times)
    # what is outside of the range answers nothing, as in Feast: such a row keeps its place, under no key
    nobody = (None, None)
    mine, theirs, of_tenants = (
        [(key if start <= time <= end else nobody, time, made) for key, time, made in part]
        for part in (rows, others, tenants)
    )
    base = {(key, time) for key, time, _ in (*mine, *theirs) if key != nobody}
    assert actual.keys() == base
    for key, at in base:
        position, other, tenant = actual[key, at]
        assert position == newest(mine, key, at, reads[0].ttl)
        assert other == newest(theirs, key, at, None)
        expected = newest(of_tenants, key, at, reads[2].ttl, parts=1)
        # rows of several assets of a tenant may be equal in time and creation
        assert (tenant is None) == (expected is None)
        if tenant is not None and expected is not None:
            assert tenants[tenant][1:] == tenants[expected][1:]
            assert tenants[tenant][0][0] == key[0]


def test_date_range__keys_that_do_not_contain_each_other__says_so(
    config: PostgreSQLConfig, native_postgres: str
) -> None:
    reads = [read_of("v", None, {"t": "tenant_id"}), read_of("w", None, {"a": "asset_id"})]
    with (
        stored(config, native_postgres) as session,
        pytest.raises(EntityKeysError, match="None of v, w has the keys of all others"),
    ):
        date_range.join(session, reads, START, START, full_feature_names=False)


def test_choose__few_and_many_entity_rows__by_what_the_planner_expects(
    config: PostgreSQLConfig, native_postgres: str
) -> None:
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute("TRUNCATE strategies.rows")
        connection.execute(
            "INSERT INTO strategies.rows SELECT 't' || n %% 5, 'a' || n %% 20, %s + n * interval '1 minute'"
            " FROM generate_series(1, 20000) AS n",
            [START],
        )
        connection.execute("CREATE INDEX probed ON strategies.rows (tenant_id, asset_id, time)")
        connection.execute("ANALYZE strategies.rows")
    read = read_of("v", None, BOTH)

    def chosen(count: int) -> JoinStrategy:
        table = pa.table({"t": ["t1"] * count, "a": ["a1"] * count})
        times = pa.array([START + timedelta(days=20)] * count, TIME)
        entities = Entities(table.append_column("at", times), "at")
        with connect(config) as session:
            probes = Probes.of(session, read, entities)
            return history.choose_strategy(session, probes, read.candidates(entities, AsOfFilter()))

    try:
        assert chosen(3) == JoinStrategy.PROBE
        assert chosen(20_000) == JoinStrategy.RANGE
    finally:
        with psycopg.connect(native_postgres, autocommit=True) as connection:
            connection.execute("DROP INDEX strategies.probed")
    # each probe would read the whole table
    assert chosen(20) == JoinStrategy.RANGE


@pytest.mark.parametrize("way", list(JoinStrategy))
def test_join__keys_of_another_type__says_which(
    config: PostgreSQLConfig, native_postgres: str, way: JoinStrategy
) -> None:
    asked = Entities(pa.table({"t": ["t1"], "a": [1], "at": pa.array([START], TIME)}), "at")
    with (
        stored(config, native_postgres, rows=[]) as session,
        pytest.raises(EntityTypeError, match=r"those of v: t \(string\), a \(int64\)"),
    ):
        history.join(
            session,
            asked,
            [read_of("v", None, BOTH)],
            AsOfFilter(),
            strategy=way,
            full_feature_names=False,
        )
