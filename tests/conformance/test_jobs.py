"""What else the offline stores do: pull rows, write them, save datasets."""

from __future__ import annotations

import secrets
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from conformance.compare import assert_same, canonical, unordered
from conformance.history import FEATURES, FRAMES
from conformance.repository import SOURCES
from conformance.rows import HOUR, MICROSECOND, T0
from conformance.stores import shipped
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from pyarrow import parquet

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.stores import Hosts, Pair
    from feast import FeatureStore
    from feast.infra.offline_stores.offline_store import RetrievalJob

_KEYS = ["tenant_id", "asset_id"]
#: Source, keys, features and column of the time of creation.
PULLS: dict[str, tuple[str, list[str], list[str], str | None]] = {
    "load": ("loads", _KEYS, ["load", "readings"], "created_timestamp"),
    "features turned": ("loads", _KEYS, ["quality", "load"], "created_timestamp"),
    "query": ("good_loads", _KEYS, ["load"], "created_timestamp"),
    "no time of creation": ("loads_unmarked", _KEYS, ["load"], None),
    "one key": ("prices", ["tenant_id"], ["season", "price"], None),
    "naive times": ("naive", ["tenant_id"], ["price"], None),
    "no entity": ("market", [], ["index"], None),
    "every column": ("prices", ["tenant_id"], [], None),
    "every column, no entity": ("market", [], [], None),
    "slow": ("slow_loads", _KEYS, ["load"], "created_timestamp"),
    "stuck": ("stuck", ["tenant_id"], ["season"], None),
    "types": ("devices", ["device_id"], ["f_smallint", "f_doubles", "f_bytea", "f_timestamp"], None),
}
_DIFFERENT = {("latest", "every column, no entity")}
#: None of them starts within three hours after a row: see `late_seconds` among the deliberate differences.
SPANS = {
    "all": (T0 - 40 * HOUR, T0 + 9 * HOUR),
    "end included": (T0 - 40 * HOUR, T0 - HOUR),
    "end just before": (T0 - 40 * HOUR, T0 - HOUR - MICROSECOND),
    "nothing": (T0 + 90 * HOUR, T0 + 99 * HOUR),
}


def pull(store: FeatureStore, how: str, what: str, span: Any) -> RetrievalJob:
    source, keys, features, created = PULLS[what]
    offline = store._get_provider().offline_store
    method = getattr(offline, f"pull_{how}_from_table_or_query")
    start, end = span
    return method(
        config=store.config,
        data_source=SOURCES[source],
        join_key_columns=keys,
        feature_name_columns=features,
        timestamp_field="event_timestamp",
        created_timestamp_column=created,
        start_date=start,
        end_date=end,
    )


@pytest.mark.parametrize("span", list(SPANS))
@pytest.mark.parametrize(
    ("how", "what"), [case for case in product(("latest", "all"), PULLS) if case not in _DIFFERENT]
)
def test_pull__same_columns_types_and_rows(pair: Pair, how: str, what: str, span: str) -> None:
    ours, stock = (pull(store, how, what, SPANS[span]).to_arrow() for store in (pair.ours, pair.stock))
    assert_same(ours, stock)


@pytest.mark.parametrize("span", [(None, T0), (T0 - 3 * HOUR, None)], ids=["until", "since"])
def test_pull_all__open_ranges(pair: Pair, span: Any) -> None:
    ours, stock = (pull(store, "all", "load", span).to_arrow() for store in (pair.ours, pair.stock))
    assert_same(ours, stock)


def test_to_df__same_types(pair: Pair) -> None:
    """But for the zone of times."""
    features = FEATURES["range of types"] + FEATURES["several views"]
    frame = FRAMES["full"].assign(device_id=range(1, len(FRAMES["full"]) + 1))
    ours, stock = (
        store.get_historical_features(frame, features).to_df() for store in (pair.ours, pair.stock)
    )
    assert list(ours.columns) == list(stock.columns)
    assert list(ours.index) == list(range(len(frame)))
    for name in stock.columns:
        if pd.api.types.is_datetime64_any_dtype(stock[name]):
            assert ours[name].dtype.tz is not None
        else:
            assert ours[name].dtype == stock[name].dtype, name


def run(address: str, query: str) -> list[tuple[Any, ...]]:
    """Rows that the database gives for a job's SQL."""
    with psycopg.connect(address) as connection:
        found = connection.execute(query.encode()).fetchall()
    return sorted((tuple(map(canonical, row)) for row in found), key=repr)


@pytest.mark.parametrize("how", ["latest", "all"])
def test_to_sql__gives_the_rows(pair: Pair, address: str, how: str) -> None:
    for store in (pair.ours, pair.stock):
        job = pull(store, how, "load", SPANS["all"])
        assert run(address, job.to_sql()) == unordered(job.to_arrow())


def test_deliberate_difference__sql_of_history_runs_by_itself(pair: Pair, address: str) -> None:
    """Stock's reads a table that is gone by then."""
    ours, stock = (
        store.get_historical_features(FRAMES["full"], FEATURES["several views"])
        for store in (pair.ours, pair.stock)
    )
    with pytest.raises(psycopg.errors.UndefinedTable):
        run(address, stock.to_sql())
    assert run(address, ours.to_sql()) == unordered(ours.to_arrow())


def test_saved_dataset__same_rows(pair: Pair) -> None:
    saved = {}
    for name in ("ours", "stock"):
        store: FeatureStore = getattr(pair, name)
        job = store.get_historical_features(FRAMES["shuffled"], FEATURES["saved"])
        table = f"saved_{name}_{secrets.token_hex(3)}"
        made = store.create_saved_dataset(job, table, SavedDatasetPostgreSQLStorage(table))
        saved[name] = made.to_arrow()
        saved[name] = saved[name].select(sorted(saved[name].column_names))  # stock's keys are in no order
        again = store.get_saved_dataset(table)
        assert_same(again.to_arrow().select(saved[name].column_names), saved[name])
    assert_same(saved["ours"], saved["stock"])


def test_offline_write_batch__rows_are_there(pair: Pair) -> None:
    """Stock's class for Postgres cannot write; push to the offline store goes this way."""
    rows = pa.table(
        {
            "tenant_id": ["w1", "w1"],
            "event_timestamp": [T0, T0 + HOUR],
            "price": [1.0, None],
            "season": [None, "x"],
        }
    )
    view = pair.ours.get_feature_view("written")
    write = pair.ours._get_provider().ingest_df_to_offline_store
    for _ in range(2):
        write(view, rows)
    found = pair.stock.get_historical_features(
        None, ["written:price", "written:season"], start_date=T0 - HOUR, end_date=T0 + HOUR
    ).to_arrow()
    assert found.num_rows == 2
    with pytest.raises(NotImplementedError):
        pair.stock._get_provider().ingest_df_to_offline_store(view, rows)


def test_to_remote_storage__files_with_the_same_rows(pair: Pair, hosts: Hosts, tmp_path: Path) -> None:
    """Stock's class for Postgres has none of it."""
    exporting = hosts.open(shipped(), offline={"export_location": str(tmp_path)})
    ours, stock = (
        store.get_historical_features(FRAMES["full"], FEATURES["both on demand"])
        for store in (exporting, pair.stock)
    )
    assert not stock.supports_remote_storage_export()
    assert ours.supports_remote_storage_export()
    assert_same(pa.concat_tables(map(parquet.read_table, ours.to_remote_storage())), stock.to_arrow())
