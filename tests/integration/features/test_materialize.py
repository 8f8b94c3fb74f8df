"""A follower writes what refreshes changed, all of it and nothing else; freshness is that of the data."""

from __future__ import annotations

import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from ai_hub.db import connect
from ai_hub.db.refresh import open_session, refresh
from ai_hub.errors import NotFoundError
from ai_hub.features import materialize as module
from ai_hub.features.freshness import freshness
from ai_hub.features.materialize import Follower, Pass, follow, materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import delete_assets, negative_key

if TYPE_CHECKING:
    import psycopg
    from feast import FeatureStore
    from support.energy import Energy

HOUR = timedelta(hours=1)
THIS_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
VIEWS = ("anomaly_detection_features", "forecast_advanced_features", "forecast_basic_features")
ONLINE = (*VIEWS, "day_ahead_features", "latest_reading")


@pytest.fixture
def store(energy: Energy) -> FeatureStore:
    return energy.store


def write(tenant: str, asset: str, readings: dict[datetime, float], *, dsn: str) -> None:
    with connect(dsn) as connection:
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
            " DO UPDATE SET value = excluded.value, ingested_at = now()",
            [tenant, asset, list(readings), list(readings.values())],
        )


def online(store: FeatureStore, tenant: str, asset: str) -> dict[str, Any]:
    names = [*(f"{view}:lag_1h" for view in VIEWS), "latest_reading:value"]
    answer = store.get_online_features(
        names, [{"tenant_id": tenant, "asset_id": asset}], full_feature_names=True
    )
    return {name: values[0] for name, values in answer.to_dict().items() if "__" in name}


def values(hourly: float | None, latest: float | None) -> dict[str, Any]:
    return {f"{view}__lag_1h": hourly for view in VIEWS} | {"latest_reading__value": latest}


def test_materialize__newest_rows_within_their_time(store: FeatureStore, database: str, tenant: str) -> None:
    write(tenant, "fresh", {THIS_HOUR - HOUR: 1.0}, dsn=database)
    write(tenant, "quiet", {THIS_HOUR - 5 * HOUR: 2.0}, dsn=database)
    write(tenant, "silent", {THIS_HOUR - 40 * HOUR: 3.0}, dsn=database)
    write(f"{tenant}-other", "fresh", {THIS_HOUR - HOUR: 9.0}, dsn=database)
    refresh(dsn=database)
    done = materialize(store, Scope([tenant]))
    # a row for each hour up to a day after the last reading
    assert done.rows == dict.fromkeys(ONLINE, 2)
    assert online(store, tenant, "fresh") == values(1.0, 1.0)
    assert online(store, tenant, "quiet") == values(None, 2.0)
    assert online(store, tenant, "silent") == values(None, None)
    assert online(store, f"{tenant}-other", "fresh") == values(None, None)
    assert materialize(store, Scope([tenant], ["fresh"])).rows == dict.fromkeys(ONLINE, 1)


def test_follow__refresh__has_one_session_until_that_ends(
    store: FeatureStore, database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[psycopg.Connection] = []
    outages: list[str] = []
    seen: list[float | None] = []
    stop = threading.Event()

    def opened() -> psycopg.Connection:
        sessions.append(open_session(database))
        return sessions[-1]

    def on_pass(_: Pass) -> None:
        seen.append(online(store, tenant, "a")["forecast_basic_features__lag_1h"])
        if len(seen) == 2:  # as if a firewall had forgotten it
            with socket.socket(fileno=os.dup(sessions[-1].fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        if len(seen) == 3:
            stop.set()
        write(tenant, "a", {THIS_HOUR - HOUR: 10.0 * len(seen)}, dsn=database)

    monkeypatch.setattr(module, "open_session", opened)
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0)
    write(tenant, "a", {THIS_HOUR - HOUR: 1.0}, dsn=database)
    follower = Follower(store, Scope([tenant]))
    follow(
        *(follower, stop),
        interval=0,
        refresh=True,
        on_pass=on_pass,
        on_outage=lambda error, _: outages.append(type(error).__name__),
    )
    assert seen == [1.0, 10.0, 20.0]
    assert (outages, len(sessions)) == (["OperationalError"], 2)
    assert all(session.closed for session in sessions)


def test_follower__after_a_refresh__writes_what_it_changed(
    store: FeatureStore, database: str, tenant: str
) -> None:
    for asset in ("a", "b"):
        write(tenant, asset, {THIS_HOUR - 50 * HOUR: 1.0, THIS_HOUR - HOUR: 2.0}, dsn=database)
    refresh(dsn=database)
    one, other = (Follower(store, Scope([tenant])) for _ in range(2))
    for follower in (one, other):
        first = follower.catch_up()
        assert first.refreshes is None
        assert first.rows == dict.fromkeys(ONLINE, 2)
    assert one.catch_up().refreshes == 0

    write(tenant, "a", {THIS_HOUR - HOUR: 5.0}, dsn=database)
    refresh(dsn=database)
    done = one.catch_up()
    assert done.refreshes == 1
    assert {view: done.rows[view] for view in VIEWS} == dict.fromkeys(VIEWS, 1)
    assert {(each.asset, each.reading) for each in done.behind if each.view in VIEWS} == {
        ("a", THIS_HOUR - HOUR)
    }
    assert online(store, tenant, "a") == values(5.0, 5.0)
    assert online(store, tenant, "b") == values(2.0, 2.0)

    # what an hour of long ago touches is not online
    write(tenant, "b", {THIS_HOUR - 50 * HOUR: 7.0}, dsn=database)
    refresh(dsn=database)
    done = one.catch_up()
    assert {view: done.rows[view] for view in VIEWS} == dict.fromkeys(VIEWS, 0)
    # but for a forecast, which looks at it
    assert done.rows["day_ahead_features"] == 1
    # the other one follows both at once
    done = other.catch_up()
    assert (done.refreshes, done.rows[VIEWS[0]]) == (2, 1)


def test_follower__rows_of_a_refresh_that_was_killed__are_not_lost(
    store: FeatureStore, database: str, tenant: str
) -> None:
    write(tenant, "a", {THIS_HOUR - HOUR: 1.0}, dsn=database)
    refresh(dsn=database)
    follower = Follower(store, Scope([tenant]))
    follower.catch_up()
    write(tenant, "a", {THIS_HOUR - HOUR: 2.0}, dsn=database)
    refresh(dsn=database)
    with connect(database) as connection:  # as if it had been killed before its end
        connection.execute(
            "DELETE FROM feature_refreshes WHERE refresh_id = (SELECT max(refresh_id) FROM feature_refreshes)"
        )
    assert follower.catch_up().refreshes == 0
    write(tenant, "b", {THIS_HOUR - HOUR: 3.0}, dsn=database)
    refresh(dsn=database)
    follower.catch_up()
    assert online(store, tenant, "a") == values(2.0, 2.0)
    assert online(store, tenant, "b") == values(3.0, 3.0)


def test_follower__after_a_failure__reads_everything(
    store: FeatureStore, database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, "a", {THIS_HOUR - HOUR: 1.0}, dsn=database)
    refresh(dsn=database)
    follower = Follower(store, Scope([tenant]))
    follower.catch_up()
    write(tenant, "a", {THIS_HOUR - HOUR: 2.0}, dsn=database)
    refresh(dsn=database)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise ConnectionError

        patch.setattr(module, "_write_rows", fail)
        with pytest.raises(ConnectionError):
            follower.catch_up()
    assert follower.catch_up().refreshes is None
    assert online(store, tenant, "a") == values(2.0, 2.0)


def test_follower__redis_was_started_anew__reads_everything(
    store: FeatureStore, database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, "a", {THIS_HOUR - HOUR: 1.0}, dsn=database)
    refresh(dsn=database)
    follower = Follower(store, Scope([tenant]))
    follower.catch_up()
    assert follower.catch_up().refreshes == 0
    monkeypatch.setattr(module, "_redis_run", lambda _: "another")
    assert follower.catch_up().refreshes is None
    assert follower.catch_up().refreshes == 0


def test_freshness__is_that_of_the_readings_behind_what_is_online(
    store: FeatureStore, database: str, tenant: str, energy: Energy
) -> None:
    write(tenant, "fast", {THIS_HOUR - HOUR / 4: 1.0, THIS_HOUR: 2.0}, dsn=database)
    write(tenant, "slow", {THIS_HOUR - 7 * HOUR: 1.0}, dsn=database)
    write(tenant, "absent", {THIS_HOUR - 90 * HOUR: 1.0}, dsn=database)
    refresh(dsn=database)
    before = freshness(store, tenant)
    assert [(each.online, each.assets) for each in before] == [(0, 3)] * len(ONLINE)
    materialize(store, Scope([tenant]))
    # readings that came since are in the table, but not behind what is online
    write(tenant, "fast", {THIS_HOUR - HOUR / 6: 1.0, THIS_HOUR + HOUR / 60: 1.0}, dsn=database)
    found = {each.feature_view: each for each in freshness(store, tenant)}
    assert set(found) == set(ONLINE)
    for view in VIEWS:
        each = found[view]
        assert (each.online, each.assets) == (2, 3)
        assert each.newest_reading == THIS_HOUR - HOUR / 6
        assert (each.slowest_asset, each.slowest_reading) == ("slow", THIS_HOUR - 7 * HOUR)
    assert found["latest_reading"].newest_reading == THIS_HOUR
    printed = energy.run("ai-hub", "freshness", "--tenant", tenant, "--json")
    assert printed.returncode == 0, printed.stderr
    summary = {each["feature_view"]: each for each in json.loads(printed.stdout)}
    age = (datetime.now(UTC) - (THIS_HOUR - HOUR / 6)).total_seconds()
    assert summary[VIEWS[0]]["age_seconds"] == pytest.approx(age, abs=120)
    assert summary[VIEWS[0]]["slowest_asset"] == "slow"
    with pytest.raises(NotFoundError, match="has no readings"):
        freshness(store, "nobody")


def test_forget__rows_and_notes_of_these_assets_alone(
    store: FeatureStore, database: str, redis_url: str, tenant: str
) -> None:
    others = [(tenant, "kept"), (f"{tenant}-x", "gone")]
    for owner, asset in [(tenant, "gone"), *others]:
        write(owner, asset, {THIS_HOUR - HOUR: 1.0}, dsn=database)
    refresh(dsn=database)
    materialize(store, Scope([tenant, f"{tenant}-x"]))
    notes = [
        negative_key(store.project, f"_ts:{VIEWS[0]}", owner, asset)
        for owner, asset in [(tenant, "gone"), *others]
    ]
    before = [online(store, owner, asset) for owner, asset in others]
    assert online(store, tenant, "gone") == values(1.0, 1.0)
    with Redis.from_url(redis_url) as client:
        client.mset(dict.fromkeys(notes, "1"))
        delete_assets(store, tenant, ["gone"])
        assert client.mget(notes) == [None, b"1", b"1"]
        client.delete(*notes)
    assert online(store, tenant, "gone") == values(None, None)
    assert [online(store, owner, asset) for owner, asset in others] == before
