"""Skew: what was served online is compared with history, as known when it was served."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from support.feature_reading import PATIENT, Clock, ask, run
from support.feature_tables import register, write
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.features import newest
from ai_hub.features.materialize import materialize
from ai_hub.features.online import sampling
from ai_hub.features.online.sampling import Sampler, plain
from ai_hub.features.skew import _are_same, check_served
from ai_hub.features.store import asset_key
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

HOUR = timedelta(hours=1)
ALL = PATIENT.model_copy(update={"features_sample": 1.0})
SETS = ("forecast_basic", "forecast_advanced", "day_ahead")


@pytest.fixture
def tenants(energy: Energy) -> tuple[str, str]:
    """Two tenants with a meter of one name, whose rows are online."""
    names = (f"skew-{secrets.token_hex(4)}", f"skew-{secrets.token_hex(4)}")
    random = np.random.default_rng(3)
    with connect() as connection:
        for name in names:
            register(connection, name, "meter", "Europe/Berlin")
            readings = {energy.now - (n + 1) * HOUR: float(random.normal(50, 9)) for n in range(200)}
            write(connection, name, "meter", readings)
    refresh()
    materialize(energy.store, newest.Scope(list(names)))
    return names


def serve(tenant: str, options: Any = ALL, times: int = 1, asset: str = "meter", **settings: Any) -> None:
    """Ask for the features of every set; samples are written by the end."""

    async def work(reader: FeatureReader) -> None:
        for _ in range(times):
            for name in SETS:
                await ask(reader, tenant, asset, feature_set=name)

    run(work, Clock(datetime.now(UTC)), options=options, **settings)


def samples(tenant: str) -> list[tuple[Any, ...]]:
    with connect() as connection:
        return connection.execute(
            "SELECT view_name, features FROM served_features WHERE tenant_id = %s ORDER BY view_name",
            [tenant],
        ).fetchall()


def findings(tenant: str) -> dict[tuple[str, str], Any]:
    """Open skews by asset and feature."""
    with connect() as connection:
        rows = connection.execute(
            "SELECT asset_id, subject, detail FROM data_findings"
            " WHERE tenant_id = %s AND kind = 'feature_skew' AND resolved_at IS NULL",
            [tenant],
        )
        return {(asset, subject): detail for asset, subject, detail in rows}


def test_served_rows__are_those_of_history(energy: Energy, tenants: tuple[str, str]) -> None:
    tenant, _ = tenants
    serve(tenant)
    taken = dict(samples(tenant))
    assert set(taken) == {"forecast_basic_features", "forecast_advanced_features", "day_ahead_features"}
    with connect() as connection:
        row = connection.execute(
            "SELECT lag_1h, historical_avg_24h FROM forecast_basic_features WHERE tenant_id = %s"
            " ORDER BY event_timestamp DESC LIMIT 1",
            [tenant],
        ).fetchone()
    basic = taken["forecast_basic_features"]
    assert (basic["lag_1h"], basic["historical_avg_24h"]) == row
    skew = check_served(energy.store, tenants=[tenant])
    assert (skew.compared, skew.not_compared, skew.found) == (3, 0, [])
    assert samples(tenant) == []
    # a correction that came after it was served is no skew
    serve(tenant)
    with connect() as connection:
        write(connection, tenant, "meter", {energy.now - 3 * HOUR: 999.0})
    refresh()
    assert check_served(energy.store, tenants=[tenant]).found == []


def test_wrong_value_online__is_a_finding_of_its_tenant_until_it_is_right(
    energy: Energy, tenants: tuple[str, str]
) -> None:
    tenant, other = tenants
    client = redis.Redis.from_url(Settings().require("redis_url"))
    key = asset_key(energy.store, tenant, "meter")
    right = client.hgetall(key)
    # the advanced set's values in the place of the basic one's: lag_24h is that of another view
    fields = feature_fields(energy, "forecast_basic_features")
    client.hset(key, fields["lag_24h"], right[fields["historical_avg_24h"]])
    for name in (tenant, other):
        serve(name)
    said = CliRunner().invoke(app, ["check", "features", "--tenant", tenant, "--tenant", other, "--json"])
    found = json.loads(said.stdout)["served"]
    assert found["compared"] == 6
    assert [(each["tenant_id"], each["feature"]) for each in found["skew"]] == [
        (tenant, "forecast_basic_features.lag_24h")
    ]
    assert findings(other) == {}
    (detail,) = findings(tenant).values()
    assert (detail["rows"], detail["checked"]) == (1, 1)
    assert detail["online"] != detail["offline"]
    listed = CliRunner().invoke(app, ["ingest", "findings", "--tenant", tenant])
    assert "feature_skew" in listed.output
    # the same row again is the same finding; the next hour's right row resolves it
    serve(tenant)
    assert len(check_served(energy.store, tenants=[tenant]).found) == 1
    assert len(findings(tenant)) == 1
    client.delete(key)
    client.hset(key, mapping=right)
    with connect() as connection:
        connection.execute(
            "UPDATE data_findings SET first_timestamp = first_timestamp - INTERVAL '1 hour',"
            " last_timestamp = last_timestamp - INTERVAL '1 hour'"
            " WHERE tenant_id = %s AND kind = 'feature_skew'",
            [tenant],
        )
    serve(tenant)
    plain = CliRunner().invoke(app, ["check", "features", "--tenant", tenant])
    assert "3 served rows compared with history; 1 findings resolved" in plain.output
    assert findings(tenant) == {}


def test_rows_without_a_version_when_they_were_served__are_not_compared(
    energy: Energy, tenants: tuple[str, str]
) -> None:
    tenant, other = tenants
    # of a new meter, served before a refresh has stored its rows
    with connect() as connection:
        register(connection, tenant, "new", "Europe/Berlin")
        write(connection, tenant, "new", {energy.now - (n + 1) * HOUR: 5.0 for n in range(200)})
    materialize(energy.store, newest.Scope([tenant]))
    serve(tenant, asset="new")
    serve(other)
    assert len(samples(tenant)) == len(samples(other)) == 3
    refresh()
    skew = check_served(energy.store, tenants=[tenant])
    assert (skew.compared, skew.not_compared, skew.found) == (0, 3, [])
    # a sample that was written after its asset had gone
    with connect() as connection:
        connection.execute("UPDATE served_features SET asset_id = 'gone' WHERE tenant_id = %s", [other])
    said = CliRunner().invoke(app, ["check", "features", "--tenant", other])
    assert "0 served rows compared with history, 3 could not be" in said.output
    assert findings(tenant) == findings(other) == {}
    # one that history has no longer is a finding
    serve(other)
    with connect() as connection:
        connection.execute(
            "UPDATE served_features SET served_at = served_at + INTERVAL '3 hours' WHERE tenant_id = %s",
            [other],
        )
        connection.execute("DELETE FROM timeseries_data WHERE tenant_id = %s", [other])
    refresh()
    assert {each.subject for _, _, each in check_served(energy.store, tenants=[other]).found} >= {
        "forecast_basic_features.lag_1h"
    }


def test_time_zone__corrected_since__leaves_its_features_out(
    energy: Energy, tenants: tuple[str, str]
) -> None:
    tenant, _ = tenants
    serve(tenant)
    with connect() as connection:
        connection.execute("UPDATE assets SET timezone = 'Asia/Tokyo' WHERE tenant_id = %s", [tenant])
    skew = check_served(energy.store, tenants=[tenant])
    assert (skew.compared, skew.found) == (3, [])
    # the register had it long before the row was served: Redis has another one
    serve(tenant)
    with connect() as connection:
        connection.execute(
            "UPDATE assets SET timezone_since = now() - INTERVAL '61 minutes' WHERE tenant_id = %s", [tenant]
        )
    found = {each.subject.split(".")[1] for _, _, each in check_served(energy.store, tenants=[tenant]).found}
    assert found == {"local_time"}


def test_plain_values__of_history_and_online_are_the_same() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for online, offline in (
        (at, at.astimezone(timezone(2 * HOUR))),
        (b"ab", b"ab"),
        ([1.0, float("nan"), 3.0], [1.0 + 1e-9, None, 3.0]),
        (0.1, Decimal("0.1")),
        (float("nan"), None),
    ):
        assert _are_same(plain(online), plain(offline)), online
    for online, offline in (([1.0, 2.0], [1.0, 2.1]), ([1.0], [1.0, 1.0]), (None, 0.0), (at, at + HOUR)):
        assert not _are_same(plain(online), plain(offline)), online


def test_samples__during_a_write_are_written_and_those_of_a_stop_counted(
    tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, _ = tenants
    monkeypatch.setattr(sampling, "_FLUSH_S", 0.01)
    monkeypatch.setattr(sampling, "_CLOSE_S", 0.2)
    began, go = threading.Event(), threading.Event()

    async def work(reader: FeatureReader) -> None:
        sampler = reader._sampler
        assert sampler is not None
        insert = sampler._insert

        def slow(*arguments: Any) -> None:
            began.set()
            go.wait(30)
            insert(*arguments)

        monkeypatch.setattr(sampler, "_insert", slow)
        await ask(reader, tenant, "meter", feature_set=SETS[0])
        assert await asyncio.to_thread(began.wait, 30)
        await ask(reader, tenant, "meter", feature_set=SETS[1])  # the first is being written
        go.set()
        assert sampler._task is not None
        await asyncio.wait([sampler._task], timeout=30)
        assert len(samples(tenant)) == 2
        for event in (began, go):
            event.clear()
        await ask(reader, tenant, "meter", feature_set=SETS[0])
        assert await asyncio.to_thread(began.wait, 30)
        await ask(reader, tenant, "meter", feature_set=SETS[1])

    before = sampling._LOST._value.get()
    try:
        run(work, Clock(datetime.now(UTC)), options=ALL)
    finally:
        go.set()
    assert sampling._LOST._value.get() - before == 2


def feature_fields(energy: Energy, view: str) -> dict[str, bytes]:
    """Names of features in Redis, as Feast hashes them."""
    names = [field.name for field in energy.store.get_feature_view(view).features]
    return {name: _mmh3(f"{view}:{name}") for name in names}


def test_samples__of_a_tenant__are_out_of_reach_of_others(tenants: tuple[str, str]) -> None:
    tenant, other = tenants
    serve(tenant)
    with connect() as connection, as_tenant(connection, other):
        assert connection.execute("SELECT count(*) FROM served_features").fetchone() == (0,)
        assert connection.execute("DELETE FROM served_features").rowcount == 0
    with (
        pytest.raises(psycopg.errors.WithCheckOptionViolation),
        connect() as connection,
        as_tenant(connection, other),
    ):
        connection.execute(
            "INSERT INTO served_features VALUES (%s, 'meter', 'v', now(), now(), '{}')", [tenant]
        )
    assert len(samples(tenant)) == 3


def test_sampling__takes_its_share_and_no_more_than_fits(
    tenants: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, _ = tenants
    serve(tenant, options=PATIENT.model_copy(update={"features_sample": 0.0}), times=3)
    assert samples(tenant) == []
    sampler = Sampler(Settings(), 0.02)
    gaps = [sampler._gap() for _ in range(20_000)]
    assert np.mean(gaps) == pytest.approx(50, rel=0.05)
    assert min(gaps) == 1
    monkeypatch.setattr("ai_hub.features.online.sampling._MOST", 4)
    serve(tenant, times=5)
    assert len(samples(tenant)) == 4


def test_database_that_is_down__loses_samples_and_no_answer(tenants: tuple[str, str]) -> None:
    tenant, _ = tenants

    async def work(reader: FeatureReader) -> None:
        assert reader._sampler is not None
        reader._sampler._settings = Settings(timescale_dsn="postgresql://nobody@127.0.0.1:9/none")  # type: ignore[arg-type]
        (result,) = await ask(reader, tenant, "meter", feature_set="forecast_basic")
        assert result["source"] == "redis"

    run(work, Clock(datetime.now(UTC)), options=ALL)
    assert samples(tenant) == []
