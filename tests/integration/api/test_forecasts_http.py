"""Forecasts over HTTP and by the client: from the model in production, found again by their id."""

from __future__ import annotations

import asyncio
import secrets
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from support.day_ahead import MODEL, promote_day_ahead
from support.energy import Energy, add_meter
from support.service_server import running_service

from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES, Scope
from ai_hub.client import AsyncClient, Client
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import ConflictError, NotFoundError, ServiceDownError
from ai_hub.features import newest
from ai_hub.features.materialize import materialize
from ai_hub.features.online.reader import Answer
from ai_hub.forecasting import log, production, service
from ai_hub.forecasting.accuracy import HORIZON, accuracy
from ai_hub.forecasting.log import Role
from ai_hub.forecasting.replay import Replay, replay
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUR = timedelta(hours=1)


@dataclass
class Place:
    """A service, and a tenant with a model in production and two meters, of which one is not its own."""

    url: str
    tenant: str
    key: str
    #: of another tenant
    other: str
    other_key: str
    energy: Energy

    def call(self, method: str, path: str, key: str | None = None, **arguments: Any) -> httpx.Response:
        return httpx.request(
            method, f"{self.url}{path}", headers={"X-API-Key": key or self.key}, timeout=120, **arguments
        )

    def forecast(self, asset: str = "meter", **fields: Any) -> httpx.Response:
        return self.call("POST", "/ai/forecast", json={"tenant_id": self.tenant, "asset_id": asset, **fields})


@pytest.fixture(scope="module")
def place(energy: Energy) -> Iterator[Place]:
    tenants = [f"ahead-{secrets.token_hex(4)}" for _ in range(2)]
    for number, tenant in enumerate(tenants):
        add_meter(tenant, "meter", "UTC", energy.now, weeks=3, level=2.0 + number, seed=number)
    add_meter(tenants[0], "untrained", "UTC", energy.now, weeks=3, level=5.0, seed=3)
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit) VALUES (%s, 'empty', 'electricity', 'kW')",
            [tenants[0]],
        )
    refresh()
    promote_day_ahead(tenants[0], ["meter"])
    registry.ensure_tenant(tenants[1])
    materialize(energy.store, newest.Scope(tenants))
    keys = [str(api_keys.create("test", [tenant], ALL_SCOPES, created_by="test")[1]) for tenant in tenants]
    # slow and one at a time: the embedded TimescaleDB
    options = ServiceSettings(database_timeout_s=60, redis_timeout_s=5)
    with running_service(Settings(), options) as url:
        yield Place(url, tenants[0], keys[0], tenants[1], keys[1], energy)


def test_forecast__is_that_of_the_model__and_found_again(place: Place) -> None:
    answer = place.forecast()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {
        *("forecast_id", "tenant_id", "asset_id", "forecast_type", "horizon_hours", "interval_minutes"),
        *("forecasts", "metadata", "degraded"),
    }
    assert (body["tenant_id"], body["asset_id"], body["degraded"]) == (place.tenant, "meter", False)
    loaded = production.load(production.production_versions(place.tenant)[0])
    now = place.energy.now
    rows = production.read_rows(place.energy.store, loaded, ["meter"], now)
    expected = loaded.model.forecast(rows)
    points = body["forecasts"]
    assert len(points) == 24
    assert points[0]["timestamp"] == now.isoformat().replace("+00:00", "Z")
    np.testing.assert_array_equal(
        [point["point_forecast"] for point in points],
        expected.values[0, :24],  # no pandas
    )
    for name, at in (("p10", 0), ("p50", 1), ("p90", 2)):
        np.testing.assert_array_equal(
            [point["quantiles"][name] for point in points], expected.quantiles[0, :24, at]
        )
    assert {point["confidence"] for point in points} == {0.8}
    assert points[3]["prediction_interval_lower"] == points[3]["quantiles"]["p10"]
    assert points[3]["prediction_interval_upper"] == points[3]["quantiles"]["p90"]
    metadata = body["metadata"]
    assert (metadata["model_name"], metadata["model_version"], metadata["unit"]) == (MODEL, "v1.0.0", "kW")
    assert {"generated_at", "training_date", "training_samples", "mae", "rmse", "mape"} <= metadata.keys()
    assert set(metadata["features_used"]) == set(loaded.card.features)

    again = place.call("GET", f"/ai/forecast/{body['forecast_id']}", params={"tenant_id": place.tenant})
    assert again.status_code == 200, again.text
    assert again.json() == body
    # the log has it as a live run that `ai-hub forecast replay` makes again
    with connect() as connection:
        run = log.find_run(connection, place.tenant, UUID(body["forecast_id"]))
    assert (run.role, run.leads) == (Role.LIVE, 24)
    assert replayed(run).differing == 0


def replayed(run: log.Run) -> Replay:
    with connect() as connection:
        rows, features = log.read_rows(connection, run), log.read_features(connection, run)
    return replay(Settings(), run, rows, features)


def test_replay__of_a_row_that_redis_had_and_the_database_no_more__has_the_same_bits(place: Place) -> None:
    with connect() as connection:
        connection.execute(
            "UPDATE timeseries_data SET value = value * 3"
            ' WHERE tenant_id = %s AND asset_id = %s AND "timestamp" >= %s',
            [place.tenant, "untrained", place.energy.now - 48 * HOUR],
        )
    refresh()
    body = place.forecast("untrained").json()
    place.call("GET", f"/ai/forecast/{body['forecast_id']}")
    with connect() as connection:
        run = log.find_run(connection, place.tenant, UUID(body["forecast_id"]))
        rows = log.read_rows(connection, run)
    assert run.details["source"] == "redis"
    # history alone would give others
    assert replay(Settings(), run, rows, None).same_features is False
    found = replayed(run)
    assert (found.differing, found.same_features) == (0, True)
    with connect() as connection:  # which is as good to explain
        log.write(connection, found.run, found.grid)
        assert log.read_features(connection, found.run) == log.read_features(connection, run) is not None
    with pytest.raises(ConflictError, match="are not those that it was made of"):
        replay(Settings(), run, rows, b"damaged")


def test_forecast__shorter_without_quantiles__of_an_untrained_meter(place: Place) -> None:
    body = place.forecast("untrained", horizon_hours=6.0, include_quantiles=False).json()
    assert len(body["forecasts"]) == 6
    assert all(point["quantiles"] is None for point in body["forecasts"])
    again = place.call("GET", f"/ai/forecast/{body['forecast_id']}")
    assert again.json() == body


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"horizon_hours": 49}, 404, "forecasts 48 h in steps of 60 minutes"),
        ({"interval_minutes": 15}, 404, "forecasts 48 h in steps of 60 minutes"),
        ({"model_name": "nobody"}, 404, "ai-hub train --tenant"),
        ({"asset_id": "nowhere"}, 404, "GET /ai/assets"),
        ({"asset_id": "empty"}, 409, "ai-hub materialize"),
        (
            {"historical_data": [{"timestamp": "2026-01-01T00:00:00Z", "value": 1}]},
            409,
            "Ingest the readings",
        ),
        ({"features": {"issue_value": 1}}, 409, "leave the field out"),
        ({"horizon_hours": 0}, 422, "horizon_hours"),
        ({"horizon_hours": 169}, 422, "horizon_hours"),
        ({"interval_minutes": 14}, 422, "interval_minutes"),
        ({"forecast_type": "wish"}, 422, "forecast_type"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_forecast__that_cannot_be__says_why(place: Place, fields: Any, status: int, text: str) -> None:
    answer = place.forecast(**fields)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text


def test_forecast__of_other_tenants__is_out_of_reach(place: Place) -> None:
    forecast_id = place.forecast().json()["forecast_id"]
    for method, path, arguments in (
        ("POST", "/ai/forecast", {"json": {"tenant_id": place.tenant, "asset_id": "meter"}}),
        ("GET", f"/ai/forecast/{forecast_id}", {"params": {"tenant_id": place.tenant}}),
        ("GET", "/ai/forecasts", {"params": {"tenant_id": place.tenant}}),
    ):
        answer = place.call(method, path, key=place.other_key, **arguments)
        assert answer.status_code == 403, answer.text
        for scope in (Scope.FORECASTS_READ, Scope.FORECASTS_WRITE):
            _, key = api_keys.create(
                f"without-{secrets.token_hex(3)}", [place.tenant], ALL_SCOPES - {scope}, created_by="test"
            )
            needs = Scope.FORECASTS_WRITE if method == "POST" else Scope.FORECASTS_READ
            lacking = place.call(method, path, key=str(key), **arguments)
            assert lacking.status_code == (403 if scope == needs else 200)
    own = place.call("GET", f"/ai/forecast/{forecast_id}", key=place.other_key)
    assert own.status_code == 404
    assert place.call("GET", "/ai/forecasts", key=place.other_key).json() == {"forecasts": [], "total": 0}
    # it has a meter of that name, and no model
    theirs = place.call(
        "POST", "/ai/forecast", key=place.other_key, json={"tenant_id": place.other, "asset_id": "meter"}
    )
    assert (theirs.status_code, f"ai-hub train --tenant {place.other} --horizon" in theirs.text) == (
        404,
        True,
    )


def test_forecasts__are_listed_newest_first(place: Place) -> None:
    ids = [place.forecast(forecast_type=kind).json()["forecast_id"] for kind in ("load", "price")]
    for forecast_id in ids:
        # written behind its answer
        assert place.call("GET", f"/ai/forecast/{forecast_id}").status_code == 200

    def listed(**query: Any) -> list[str]:
        found = place.call("GET", "/ai/forecasts", params=query).json()
        assert found["total"] >= len(found["forecasts"])
        return [each["forecast_id"] for each in found["forecasts"]]

    assert listed(limit=2) == ids[::-1]
    assert listed(forecast_type="price") == ids[1:]
    assert listed(asset_id="meter", limit=1, offset=1) == ids[:1]
    assert listed(asset_id="nobody") == []
    assert place.call("GET", f"/ai/forecast/{uuid4()}").status_code == 404
    assert place.call("GET", "/ai/forecast/x").status_code == 422


def test_client__forecasts(place: Place) -> None:
    with Client(place.url, api_key=place.key, tenant=place.tenant) as client:
        found = client.forecast("meter", horizon_hours=3)
        assert len(found.forecasts) == 3
        with pytest.raises(NotFoundError, match="no asset nobody"):
            client.forecast("nobody")

    async def ask() -> Any:
        async with AsyncClient(place.url, api_key=place.key, tenant=place.tenant) as client:
            return await client.forecast("meter", horizon_hours=3)

    assert asyncio.run(ask()).forecasts == found.forecasts


# ---- the log behind the answers


def a_run() -> tuple[log.Run, log.Grid]:
    at = datetime(2026, 3, 2, tzinfo=UTC)
    run = log.Run(
        *("tenant", "m", 1, None, "ab" * 32, Role.LIVE, at, at), step=HOUR, horizon=HOUR, assets=("a",)
    )
    return run, log.Grid(np.ones((1, 1)))


def test_writer__database_down_for_a_while__writes_once_it_is_back() -> None:
    tries = []

    async def write(runs: Sequence[tuple[log.Run, log.Grid]]) -> None:
        tries.append([run.run_id for run, _ in runs])
        if len(tries) < 3:
            raise ServiceDownError("TimescaleDB", "here", "gone")

    async def main() -> None:
        writer, (run, grid) = service.LogWriter(write), a_run()
        await writer.submit(run, grid)
        assert tries == []  # the answer does not wait
        await writer.wait(run.tenant, run.run_id)
        assert tries == [[run.run_id]] * 3

    asyncio.run(main())


def test_writer__database_down_for_ever__goes_on_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LONGEST_PAUSE_S", 0.0)
    tries = 0

    async def write(_: object) -> None:
        nonlocal tries
        tries += 1
        if tries <= 1100:  # powers of two that no float holds
            raise ServiceDownError("TimescaleDB", "here", "gone")

    async def main() -> None:
        writer, (run, grid) = service.LogWriter(write), a_run()
        await writer.submit(run, grid)
        await asyncio.wait_for(writer.wait(run.tenant, run.run_id), 20)

    asyncio.run(main())


def test_writer__that_gives_up__says_so_and_is_not_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "_WRITE_S", 0.0)

    async def write(_: object) -> None:
        raise ServiceDownError("TimescaleDB", "here", "gone")

    async def main() -> None:
        writer, (run, grid) = service.LogWriter(write), a_run()
        await writer.submit(run, grid)
        await asyncio.gather(writer.wait(run.tenant, run.run_id), return_exceptions=True)
        with pytest.raises(NotFoundError, match="could not be recorded"):
            await writer.wait(run.tenant, run.run_id)
        # nobody else hears of it
        await writer.wait("another", run.run_id)
        assert str(run.run_id) in capsys.readouterr().out

    asyncio.run(main())


def test_writer__what_came_meanwhile__is_one_write_in_order_by_tenant() -> None:
    begun, end, written = asyncio.Event(), asyncio.Event(), []

    async def write(runs: Sequence[tuple[log.Run, log.Grid]]) -> None:
        begun.set()
        await end.wait()
        written.append([run for run, _ in runs])

    async def main() -> None:
        writer, (run, grid) = service.LogWriter(write), a_run()
        runs = [
            replace(run, tenant=tenant, run_id=log.new_run_id()) for tenant in ("a", "b", "a", "b", "a", "c")
        ]
        await writer.submit(runs[0], grid)
        await begun.wait()
        for each in runs[1:]:
            await writer.submit(each, grid)
        end.set()
        await writer.aclose()
        assert written == [runs[:1], [runs[1], runs[3]], [runs[2], runs[4]], [runs[5]]]

    asyncio.run(main())


def test_writer__one_that_the_database_refuses__is_lost_alone() -> None:
    written = []

    async def main() -> None:
        (first, grid), (second, _) = a_run(), a_run()

        async def write(runs: Sequence[tuple[log.Run, log.Grid]]) -> None:
            if any(run is second for run, _ in runs):
                raise ConflictError("The quantiles of m cross.")
            written.extend(run for run, _ in runs)

        writer, (third, _) = service.LogWriter(write), a_run()
        for run in (first, second, third):
            await writer.submit(run, grid)
        await writer.aclose()
        assert written == [first, third]
        with pytest.raises(NotFoundError, match="could not be recorded: see the log"):
            await writer.wait(second.tenant, second.run_id)
        await writer.wait(third.tenant, third.run_id)

    asyncio.run(main())


def test_writer__with_too_many_waiting__lets_answers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_PENDING", 3)

    async def main() -> None:
        end = asyncio.Event()
        writer = service.LogWriter(lambda _: end.wait())
        for _ in range(3):
            await writer.submit(*a_run())
        late = asyncio.create_task(writer.submit(*a_run()))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not late.done()
        end.set()
        await late

    asyncio.run(main())


def test_forecast__after_hundreds_in_a_row__is_found_at_once(place: Place) -> None:
    """Each write by itself takes a connection and a transaction: those before it would be waited for."""
    forecasts = service.ForecastService(Settings(), None)  # type: ignore[arg-type]
    run, grid = a_run()
    run = replace(run, tenant=place.tenant, model="many", assets=("many",))
    runs = [replace(run, run_id=log.new_run_id()) for _ in range(200)]
    connections = 0
    original = service.transaction

    def counted(*arguments: Any) -> Any:
        nonlocal connections
        connections += 1
        return original(*arguments)

    async def main() -> None:
        for each in runs:
            await forecasts._writer.submit(each, grid)
            await asyncio.sleep(0)
        found = await forecasts.find(place.tenant, runs[-1].run_id)
        assert found.run_id == runs[-1].run_id

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "transaction", counted)
        asyncio.run(main())
    assert connections < 10
    with connect() as connection:
        kept, count = log.list_runs(connection, place.tenant, model="many", limit=300)
    assert count == len(runs)
    places = {each.run_id: place for place, each in enumerate(runs)}
    recorded = sorted((places[each.run_id], each.recorded_at) for each in kept)
    # the embedded server's clock counts milliseconds, and several may be recorded in one
    assert all(earlier[1] <= later[1] for earlier, later in pairwise(recorded))


def test_scores__of_what_was_measured__are_those_of_the_log(place: Place) -> None:
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO forecast_scores VALUES"
            " (%s, 'meter', '2026-01-02', 'm', 3, 'live', 'kW', 6, 4, -2, 10, 30, 40, 2, 1, 8,"
            " 6, 3, 2, 5, 8, 10)",
            [place.tenant],
        )
    found = place.call("GET", "/ai/forecasts/scores", params={"by": "lead", "end": "2026-01-03"})
    assert found.status_code == 200, found.text
    assert found.json() == {
        "tenant_id": place.tenant,
        "by": "lead",
        "scores": [
            {
                "model_name": "m",
                "of": "6",
                "hours": 4,
                "provisional_hours": 0,
                "mae": 2.5,
                "rmse": 7.5**0.5,
                "bias": -0.5,
                "mae_over_mean": 0.25,
                "coverage": 0.5,
                "width": 4.0,
                "pinball": 0.5,
                "skill": 0.375,
            }
        ],
    }
    path = "/ai/forecasts/scores"
    assert place.call("GET", path, place.other_key, params={"end": "2026-01-03"}).json()["scores"] == []
    assert place.call("GET", path, place.other_key, params={"tenant_id": place.tenant}).status_code == 403
    empty = place.call("GET", path, params={"start": "2026-01-03", "end": "2026-01-03"})
    assert (empty.status_code, "The range is empty" in empty.text) == (400, True)
    for no_day in ("0", "1767225600", "2026-01-03T00:00:00"):
        refused = place.call("GET", path, params={"start": no_day})
        assert (refused.status_code, "must be a day such as" in refused.text) == (422, True)


def test_findings__of_models__are_those_of_the_tenant(place: Place) -> None:
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO model_findings"
            " (tenant_id, model, kind, since, detail, detected_at, resolved_at, version)"
            " VALUES (%s, 'm', 'meters', '2026-01-05Z', %s, '2026-01-12Z', NULL, 3),"
            " (%s, 'm', 'bias', '2025-01-05Z', %s, '2025-01-12Z', '2025-01-19Z', NULL)",
            [
                place.tenant,
                (
                    '{"value": 4, "usual": 2, "limit": 3, "meters":'
                    ' [{"asset_id": "a", "kind": "error", "value": 0.5, "low": null, "high": 0.2}]}'
                ),
                place.tenant,
                '{"value": 4, "usual": 2, "limit": 3}',
            ],
        )
    path = "/ai/forecasts/findings"
    found = place.call("GET", path)
    assert found.status_code == 200, found.text
    answer = found.json()
    finding_id = answer["findings"][0]["finding_id"]
    assert UUID(finding_id)
    assert answer == {
        "tenant_id": place.tenant,
        "findings": [
            {
                "finding_id": finding_id,
                "model_name": "m",
                "version": 3,
                "kind": "meters",
                "value": 4,
                "usual": 2,
                "limit": 3,
                "meters": [{"asset_id": "a", "kind": "error", "value": 0.5, "low": None, "high": 0.2}],
                "since": "2026-01-05T00:00:00Z",
                "detected_at": "2026-01-12T00:00:00Z",
                "resolved_at": None,
            }
        ],
    }
    resolved = place.call("GET", path, params={"resolved": True}).json()["findings"]
    assert [(each["kind"], each["version"]) for each in resolved] == [("meters", 3), ("bias", None)]
    assert place.call("GET", path, place.other_key, params={"resolved": True}).json()["findings"] == []
    assert place.call("GET", path, place.other_key, params={"tenant_id": place.tenant}).status_code == 403


def test_accuracy__of_live_forecasts__is_that_of_the_log(place: Place) -> None:
    assert place.forecast().status_code == 200
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO forecast_scores VALUES (%s, 'meter', (now() AT TIME ZONE 'UTC')::date - 2,"
            " 'recent', 3, 'live', 'kW', 6, 4, -2, 10, 30, 40, 2, 1, 8)",
            [place.tenant],
        )
    answer = place.call("GET", "/ai/forecasts/accuracy", params={"asset_id": "meter", "days": 2})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    now = datetime.fromisoformat(body["now"])
    with connect() as connection:
        found = accuracy(connection, place.tenant, "meter", now - timedelta(days=2), now + HORIZON, now=now)
    assert (body["tenant_id"], body["asset_id"], body["unit"]) == (place.tenant, "meter", "kW")
    assert sum(each["forecast"] is not None for each in body["hours"]) >= 24
    assert [
        (
            datetime.fromisoformat(each["timestamp"]),
            each["actual"],
            each["forecast"],
            each["p10"],
            each["p90"],
        )
        for each in body["hours"]
    ] == [(each.hour, each.actual, each.value, each.q10, each.q90) for each in found.hours]
    scores = place.call(
        "GET", "/ai/forecasts/scores", params={"by": "lead", "asset_id": "meter", "start": "2026-02-01"}
    )
    assert body["errors_by_lead"] == scores.json()["scores"]
    assert [each["model_name"] for each in body["errors_by_lead"]] == ["recent"]
    of_other = place.call("GET", "/ai/forecasts/accuracy", place.other_key, params={"asset_id": "meter"})
    assert all(each["forecast"] is None for each in of_other.json()["hours"])
    assert of_other.json()["errors_by_lead"] == []
    named = {"asset_id": "meter", "tenant_id": place.tenant}
    assert place.call("GET", "/ai/forecasts/accuracy", place.other_key, params=named).status_code == 403
    assert place.call("GET", "/ai/forecasts/accuracy", params={"asset_id": "none"}).status_code == 404


# ---- features that are old or missing


def test_issue__from_old_or_missing_features__says_so(place: Place) -> None:
    loaded = production.load(production.production_versions(place.tenant)[0])
    inputs, now = loaded.model.recipe.inputs, place.energy.now + HOUR / 3
    full: dict[str, Any] = dict.fromkeys(inputs.scalars, 1.0) | dict.fromkeys(
        inputs.arrays, [1.0] * loaded.model.leads
    )
    request = service.ForecastRequest(place.tenant, "meter", 24 * HOUR, HOUR)

    def statuses(features: dict[str, Any], hours_ago: int | None, *, degraded: bool = False) -> set[str]:
        at = None if hours_ago is None else place.energy.now - hours_ago * HOUR
        result: dict[str, Any] = {"features": features, "event_timestamp": at, "source": "redis"}
        result["degraded"] = degraded
        answer = Answer("day_ahead", now, now, [result], [at])
        run, grid = service._issue(request, loaded, service._Asset("electricity", "kW", 0.0), answer)
        assert (run.issued_at, run.details["source"]) == (at, "redis")
        return {row.status for row in log.rows_of(run, grid)}

    assert statuses(full, 0) == {"ok"}
    # until the newest features are online, and while the database is down
    assert statuses(full, 1) == statuses(full, 0, degraded=True) == {"degraded"}
    with pytest.raises(ConflictError, match="too old to forecast from"):
        statuses(full, 2)
    with pytest.raises(ServiceDownError, match="current features cannot be read"):
        statuses(full, 2, degraded=True)
    lost = full | dict.fromkeys(inputs.in_unit)
    for hours_ago in (0, None):
        with pytest.raises(ConflictError, match="no features of meter"):
            statuses(lost, hours_ago)
        with pytest.raises(ServiceDownError, match="current features cannot be read"):
            statuses(lost, hours_ago, degraded=True)


def test_issue__with_a_view_of_hours_beside_quarter_hours__is_that_of_the_quarter_hours(
    place: Place,
) -> None:
    hourly = production.load(production.production_versions(place.tenant)[0])
    loaded = replace(hourly, model=replace(hourly.model, step=HOUR / 4))
    inputs, hour = loaded.model.recipe.inputs, place.energy.now
    features: dict[str, Any] = dict.fromkeys(inputs.scalars, 1.0) | dict.fromkeys(
        inputs.arrays, [1.0] * loaded.model.leads
    )
    request = service.ForecastRequest(place.tenant, "meter", HOUR, HOUR / 4)

    def issued(now: datetime, hourly: datetime, quarter: datetime) -> tuple[datetime, set[str]]:
        result = {"features": features, "event_timestamp": hourly, "source": "redis", "degraded": False}
        answer = Answer("mixed", now, now, [result], [quarter])
        run, grid = service._issue(request, loaded, service._Asset("electricity", "kW", 0.0), answer)
        return run.issued_at, {row.status for row in log.rows_of(run, grid)}

    quarter = hour + HOUR / 2
    assert issued(quarter + HOUR / 12, hour, quarter) == (quarter, {"ok"})
    # the row of the hour under way has not come
    assert issued(quarter + HOUR / 12, hour - HOUR, quarter) == (quarter, {"degraded"})
    with pytest.raises(ConflictError, match="too old to forecast from"):
        issued(quarter + HOUR / 12, hour, quarter - HOUR / 2)


# ---- which models are in production


class Registry:
    """Answers with what it is told to."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.calls = 0

    async def run(self, work: Any) -> Any:
        del work
        self.calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            raise ServiceDownError("MLflow", "here", "gone")
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_models__while_the_registry_hangs__are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REFRESH_S", "_STALE_S", "_WAIT_S"):
        monkeypatch.setattr(service, name, 0.0)

    async def main() -> None:
        registry_, end = Registry(), asyncio.Event()
        models = service.ProductionModels(registry_.run)
        registry_.answers = [({"m": 1}, {}), end, NotFoundError("gone"), ({"m": 2}, {})]
        async with asyncio.timeout(60):
            assert (await models.get("tenant")).models == {"m": 1}
            for _ in range(3):
                assert (await models.get("tenant")).models == {"m": 1}
            assert registry_.calls == 2
            entry = await models.get("tenant")
            end.set()
            assert entry.refreshing is not None
            await entry.refreshing
            assert entry.models == {"m": 1}
            # the tenant is gone, or this service has no role in it any more
            monkeypatch.setattr(service, "_WAIT_S", 60.0)
            with pytest.raises(NotFoundError):
                await models.get("tenant")
            assert entry.models == {}
            assert (await models.get("tenant")).models == {"m": 2}

    asyncio.run(main())


def test_models__that_never_were_known__are_not_asked_for_by_each_request() -> None:
    async def main() -> None:
        registry_ = Registry()
        models = service.ProductionModels(registry_.run)
        registry_.answers = [ServiceDownError("MLflow", "here", "gone")]
        for _ in range(3):
            with pytest.raises(ServiceDownError):
                await models.get("tenant")
        assert registry_.calls == 1

    asyncio.run(main())


def test_models__registry_that_hangs__holds_up_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, begun = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> Any:
        begun.release()
        assert end.wait(60)
        raise ServiceDownError("MLflow", "here", "gone")

    monkeypatch.setattr(service, "_load", hang)

    async def main() -> None:
        forecasts = service.ForecastService(Settings(), None)  # type: ignore[arg-type]
        tenants = [f"t{number}" for number in range(2 * service._THREADS)]
        asked = [asyncio.create_task(forecasts._models.get(each)) for each in tenants]
        try:
            for _ in range(service._REGISTRY_THREADS):
                assert await asyncio.to_thread(begun.acquire, timeout=60)
            async with asyncio.timeout(30):
                assert await forecasts.newest(place.other, None, None, 1, 0) == ([], 0)
        finally:
            end.set()
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(main())


def test_models__one_of_another_format__is_an_error_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(version: Any) -> Any:
        raise KeyError(version.model)

    monkeypatch.setattr(production, "load", load)
    models, errors = service._load(place.tenant, {})
    assert models == {}
    assert isinstance(errors[MODEL], ConflictError)
    assert "is of a format" in str(errors[MODEL])


def test_forecasts__of_a_run_that_says_no_type__are_of_load(place: Place) -> None:
    run, grid = a_run()
    run = replace(run, tenant=place.tenant, model="no-type", run_id=log.new_run_id())
    backtest = replace(run, role=Role.BACKTEST, version=None, manifest_sha256=None, run_id=log.new_run_id())
    with connect() as connection:
        log.write(connection, run, grid)
        log.write(connection, backtest, grid)

    def listed(kind: str) -> list[str]:
        found = place.call("GET", "/ai/forecasts", params={"asset_id": "a", "forecast_type": kind}).json()
        return [each["forecast_type"] for each in found["forecasts"]]

    assert (listed("load"), listed("price")) == (["load"], [])
    found = place.call("GET", f"/ai/forecast/{backtest.run_id}").json()
    assert found["metadata"]["model_version"] is None
