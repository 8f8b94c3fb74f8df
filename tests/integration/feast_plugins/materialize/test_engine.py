"""What the engine decides: which rows count, what it leaves to Feast's engine, and what a failure does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from feast import BatchFeatureView, FeatureView, Field, FileSource
from feast.types import Float64, String
from support.materialize_lab import DAY, ENTITIES, NOON, OURS, SCHEMA, STOCK, view

from feast_plugins.batch_engine import ArrowComputeEngine
from feast_plugins.errors import HistoryNotKnownError, MaterializationEndError, QueryTimeoutError
from feast_plugins.materialize.run import Materialization

if TYPE_CHECKING:
    from feast import FeatureStore
    from support.materialize_lab import Lab

INSERT = "INSERT INTO meters VALUES ('t', 'a', %s, %s, %s, 1, 'on')"
ROW = [{"tenant_id": "t", "asset_id": "a"}]


def load(store: FeatureStore, name: str = "meters") -> Any:
    return store.get_online_features([f"{name}:load"], ROW).to_dict()["load"][0]


@pytest.fixture
def fast_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the views that went the fast way."""
    seen: list[str] = []
    run = Materialization.run

    def note(self: Materialization) -> None:
        seen.append(self.encoder.view.name)
        run(self)

    monkeypatch.setattr(Materialization, "run", note)
    return seen


def test_materialize__corrections_replace__older_rows_do_not(meters: Lab) -> None:
    now = datetime.now(UTC)
    store = meters.store(view())
    meters.execute(INSERT, [now - timedelta(hours=1), now, 1.0])
    store.materialize(now - DAY, now)
    meters.execute(INSERT, [now - timedelta(hours=1), now + timedelta(seconds=1), 2.0])
    store.materialize(now - DAY, now)
    assert load(store) == 2.0
    meters.execute("TRUNCATE meters")
    meters.execute(INSERT, [now - timedelta(hours=2), now, 3.0])
    store.materialize(now - DAY, now)
    assert load(store) == 2.0


def test_materialize__end_in_the_future__is_refused_and_leaves_no_trace(meters: Lab) -> None:
    now = datetime.now(UTC)
    store = meters.store(view())
    meters.execute(INSERT, [now - timedelta(hours=1), now, 1.0])
    for end in (now + timedelta(hours=1), (now + DAY).replace(tzinfo=None)):
        with pytest.raises(MaterializationEndError, match="is in the future"):
            store.materialize_incremental(end)
    assert load(store) is None
    store.materialize_incremental(now)
    assert load(store) == 1.0
    store.materialize_incremental(now - timedelta(hours=1))  # as far as that it is there
    # what an older version let happen
    store.registry.apply_materialization(store.get_feature_view("meters"), store.project, now, now + DAY)
    store.refresh_registry()
    with pytest.raises(MaterializationEndError, match="in the future, so this one would write nothing"):
        store.materialize_incremental(now)


def test_materialize__rows_stored_after_a_gap__are_found(meters: Lab) -> None:
    meters.execute(
        "INSERT INTO meters SELECT 't', 'a' || i, %(now)s, %(now)s, i, i, 'on'"
        " FROM generate_series(1, 9) AS i",
        {"now": NOON},
    )
    store = meters.store(view(), engine={"batch_rows": 2})
    store.materialize(NOON - DAY, NOON)
    newest = meters.content()
    client = meters.client()
    # of the last batches one row is kept, which is newer than what comes
    gone = [key for key in newest if b"a8" not in key]
    client.delete(*gone)
    meters.execute("UPDATE meters SET event_timestamp = %s, load = -1", [NOON - timedelta(hours=1)])
    store.materialize(NOON - DAY, NOON)
    (kept,) = newest.keys() - gone
    assert meters.content()[kept] == newest[kept]
    assert all(meters.content()[key] != newest[key] for key in gone)


def test_materialize__feasts_online_store__keeps_its_own_rule(meters: Lab, fast_runs: list[str]) -> None:
    now = datetime.now(UTC)
    for skip_dedup, expected in ((False, 1.0), (True, 2.0)):
        kinds = (OURS[0], STOCK[1], OURS[2])
        store = meters.store(view(), kinds=kinds, online={"skip_dedup": skip_dedup})
        for value in (1.0, 2.0):
            meters.execute("TRUNCATE meters")
            meters.execute(INSERT, [now - timedelta(hours=1), now, value])
            store.materialize(now - DAY, now)
        assert load(store) == expected
    assert fast_runs == ["meters"] * 4


def test_materialize_incremental__late_rows_count(meters: Lab) -> None:
    now = datetime.now(UTC)
    store = meters.store(view())
    store.materialize(now - DAY, now)
    meters.execute(INSERT, [now - timedelta(hours=2), now, 5.0])
    store.materialize_incremental(now + timedelta(seconds=1))
    assert load(store) == 5.0
    with pytest.raises(HistoryNotKnownError):
        meters.store(view(), offline={"known_at": now}).materialize(now - DAY, now)


def test_materialize__one_view_fails__the_others_are_written(meters: Lab) -> None:
    now = datetime.now(UTC)
    meters.execute(INSERT, [now - timedelta(hours=1), now, 1.0])
    store = meters.store(view("broken", table="gone"), view("bad", {"state": Float64}), view())
    with pytest.raises(Exception, match=r"gone|Type `<class 'str'>`"):
        store.materialize(now - DAY, now)
    assert load(store) == 1.0
    intervals = {item.name: len(item.materialization_intervals) for item in store.list_feature_views()}
    assert intervals == {"broken": 0, "bad": 0, "meters": 1}
    assert not list(meters.client().scan_iter(b"feast_plugins:*"))


def test_materialize__query_takes_too_long__is_named(meters: Lab) -> None:
    slow = view("slow", query="SELECT meters.* FROM meters, pg_sleep(9)")
    meters.execute(INSERT, [NOON, NOON, 1.0])
    with pytest.raises(QueryTimeoutError):
        meters.store(slow, offline={"statement_timeout_s": 0.5}).materialize(NOON - DAY, NOON)


def test_materialize__null_key__is_refused(meters: Lab) -> None:
    meters.execute("INSERT INTO meters VALUES ('t', NULL, %(now)s, %(now)s, 1, 1, 'on')", {"now": NOON})
    with pytest.raises(ValueError, match="asset_id is NULL"):
        meters.store(view()).materialize(NOON - DAY, NOON)


def test_materialize__progress__counts_every_entity(meters: Lab) -> None:
    meters.execute(
        "INSERT INTO meters SELECT 't', 'a' || i, %(now)s, %(now)s, i, i, 'on'"
        " FROM generate_series(1, 25) AS i",
        {"now": NOON},
    )
    store = meters.store(view(), engine={"batch_rows": 10})
    counts: list[int] = []

    class Bar:
        def set_description_str(self, name: str) -> None:
            assert name == "meters"

        def update(self, count: int) -> None:
            counts.append(count)

        def close(self) -> None:
            counts.append(-1)

    provider = store._get_provider()
    provider.materialize_single_feature_view(
        store.config,
        store.get_feature_view("meters"),
        NOON - DAY,
        NOON,
        store.registry,
        "lab",
        lambda _: Bar(),
    )
    assert counts == [10, 10, 5, -1]
    assert isinstance(provider.batch_engine, ArrowComputeEngine)


def double(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(load=frame["load"] * 2)


@pytest.mark.filterwarnings("ignore:Batch feature views are experimental:RuntimeWarning")
def test_materialize__what_feasts_engine_must_do__goes_there(
    meters: Lab, fast_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    now = datetime.now(UTC)
    meters.execute(INSERT, [now - timedelta(hours=1), now, 1.0])
    plain = view()
    doubled = BatchFeatureView(
        name="doubled",
        mode="pandas",
        udf=double,
        udf_string="",
        entities=ENTITIES[:2],
        schema=[Field(name="load", dtype=Float64)],
        source=plain.batch_source,
        ttl=timedelta(days=3),
        online=True,
    )
    store = meters.store(plain, doubled)
    store.materialize(now - DAY, now)
    assert (load(store), load(store, "doubled")) == (1.0, 2.0)
    assert fast_runs == ["meters"]


def test_materialize__types_of_another_kind__go_to_feasts_engine(meters: Lab) -> None:
    meters.execute("DROP TABLE IF EXISTS kinds; DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('ok')")
    meters.execute(
        "CREATE TABLE kinds AS SELECT 't'::text AS tenant_id, 'a'::text AS asset_id,"
        " %(now)s AS event_timestamp, %(now)s AS created, 'ok'::mood AS state",
        {"now": NOON},
    )
    store = meters.store(view("kinds", {"state": String}, table="kinds"))
    store.materialize(NOON - DAY, NOON)
    assert meters.client().dbsize() == 1


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_materialize__other_stores__go_through_feasts_engine(
    meters: Lab, fast_runs: list[str], tmp_path: Any, kind: str
) -> None:
    now = datetime.now(UTC)
    meters.execute(INSERT, [now - timedelta(hours=1), now, 1.0])
    made: FeatureView = view()
    if kind == "sqlite":
        options: dict[str, Any] = {"online_store": {"type": "sqlite", "path": str(tmp_path / "online.db")}}
    else:
        options = {"offline_store": {"type": "file"}}
        frame = pd.DataFrame(
            {**ROW[0], "load": 1.0, "count": 1, "state": "on", "event_timestamp": now, "created": now},
            index=[0],
        )
        frame.to_parquet(tmp_path / "rows.parquet")
        made = FeatureView(
            name="meters",
            entities=ENTITIES[:2],
            schema=[Field(name=feature, dtype=dtype) for feature, dtype in SCHEMA.items()],
            source=FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="event_timestamp"),
            ttl=timedelta(days=3),
        )
    store = meters.store(made, **options)
    store.materialize(now - DAY, now + timedelta(minutes=1))
    assert load(store) == 1.0
    assert fast_runs == []
