"""Explanations over HTTP: contributions are Shapley values of the model, and kept for its tenant."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import lightgbm as lgb
import numpy as np
import pytest
import yaml
from oracles.shapley import shapley_values
from pydantic import SecretStr
from support.city_works import ASSETS, FEATURES, MODEL, OTHER, TENANT
from support.day_ahead import MODEL as AHEAD
from support.model_service import booster, booster_upload, encoded, upload

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES, Scope
from ai_hub.api.schemas.explanations import Explanation, GlobalExplanation
from ai_hub.db import connect
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.features.store import open_store, open_tenant_store
from ai_hub.forecasting import log, production
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.issues import level, matrix
from ai_hub.forecasting.production import Issuer
from ai_hub.forecasting.replay import features_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from support.city_works import CityWorks

    from ai_hub.forecasting.log import Run

ROW = {"hour_of_day": 9, "lag_1h": 6.25, "lag_24h": 3.5}


@pytest.fixture(scope="module")
def client(city_works: CityWorks) -> Iterator[httpx.Client]:
    with city_works.client() as client:
        yield client


@pytest.fixture(scope="module")
def made() -> lgb.Booster:
    """What is in production."""
    return booster(FEATURES)


def explain(client: httpx.Client, **changes: Any) -> httpx.Response:
    body = {"tenant_id": TENANT, "model_name": MODEL, "input_features": ROW} | changes
    return client.post("/ai/explain", json=body)


@pytest.mark.parametrize("lag", [6.25, None])
def test_contributions__are_shapley_values_and_add_up(
    client: httpx.Client, made: lgb.Booster, lag: float | None
) -> None:
    row = ROW | {"lag_1h": lag}
    answer = explain(client, input_features=row)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == set(Explanation.model_fields)
    found = Explanation.model_validate(answer.json())
    numbers = [float("nan") if row[name] is None else float(row[name] or 0) for name in FEATURES]
    base, values = shapley_values(made.dump_model(), numbers)
    expected = dict(zip(FEATURES, values, strict=True))
    assert {each.feature_name: each.contribution for each in found.feature_importances} == pytest.approx(
        expected
    )
    assert found.metadata.base_value == pytest.approx(base)
    (prediction,) = made.predict(np.array([numbers]))
    assert found.metadata.prediction_value == pytest.approx(prediction)
    assert sum(expected.values()) == pytest.approx(prediction - base)
    assert {each.feature_name: each.value for each in found.feature_importances} == row

    order = sorted(FEATURES, key=lambda name: -abs(expected[name]))
    assert [(each.feature_name, each.rank) for each in found.feature_importances] == [
        (name, rank) for rank, name in enumerate(order, start=1)
    ]
    assert [each.importance for each in found.feature_importances] == pytest.approx(
        [abs(expected[name]) for name in order]
    )
    assert [each.cumulative_value for each in found.waterfall_data] == pytest.approx(
        base + np.cumsum([expected[name] for name in order])
    )
    assert [(each.feature_name, each.is_positive) for each in found.force_data] == [
        (name, expected[name] > 0) for name in order
    ]
    assert found.summary.top_3_features == order
    assert (found.model_version, found.metadata.explanation_method) == ("v1.0.0", "shap")

    again = client.get(f"/ai/explain/{found.explanation_id}")
    assert (again.status_code, again.content) == (200, answer.content)


def test_model__is_explained_by_the_rows_of_its_assets(client: httpx.Client, made: lgb.Booster) -> None:
    body = {"tenant_id": TENANT, "model_name": MODEL, "dataset_sample_size": 1000}
    answer = client.post("/ai/explain/global", json=body)
    assert answer.status_code == 200, answer.text
    found = GlobalExplanation.model_validate(answer.json())
    # all that there are are fewer
    with connect() as connection, as_tenant(connection, TENANT):
        rows = connection.execute(
            f"SELECT {', '.join(FEATURES)} FROM forecast_basic_features WHERE asset_id = ANY (%s)"  # noqa: S608
            " AND event_timestamp > now() - INTERVAL '500 hours'",  # type: ignore[arg-type]
            [list(ASSETS)],
        ).fetchall()
    assert 300 < len(rows) < 1000
    assert found.samples_analyzed == len(rows)
    matrix = np.array([[np.nan if value is None else float(value) for value in row] for row in rows])
    each = np.array([shapley_values(made.dump_model(), list(row))[1] for row in matrix[::50]])
    values = made.predict(matrix, pred_contrib=True)[:, :-1]
    assert values[::50] == pytest.approx(each)
    sizes = dict(zip(FEATURES, np.abs(values).mean(axis=0), strict=True))
    means = dict(zip(FEATURES, values.mean(axis=0), strict=True))
    importances = found.global_importances
    assert {each.feature_name: each.mean_abs_shap for each in importances} == pytest.approx(sizes)
    assert {each.feature_name: each.mean_shap for each in importances} == pytest.approx(means)
    assert [(each.feature_name, each.importance_rank) for each in importances] == [
        (name, rank) for rank, name in enumerate(sorted(sizes, key=lambda name: -sizes[name]), start=1)
    ]
    assert client.get(f"/ai/explain/{found.explanation_id}").content == answer.content

    few = client.post("/ai/explain/global", json=body | {"dataset_sample_size": 10}).json()
    assert few["samples_analyzed"] == 10


def test_version__is_the_one_that_is_named(client: httpx.Client) -> None:
    name = f"model-{secrets.token_hex(4)}"
    for version, columns in (("1.0.0", FEATURES), ("1.1.0", FEATURES[:2])):
        body = booster_upload(TENANT, name, booster(columns, rounds=3), version=version)
        assert client.post("/ai/models/register", json=body).status_code == 201
    assert "in Production" in explain(client, model_name=name).json()["message"]
    first = explain(client, model_name=name, model_version="1.0.0")
    assert (first.status_code, first.json()["model_version"]) == (200, "v1.0.0")
    row = {name: ROW[name] for name in FEATURES[:2]}
    newest = explain(client, model_name=name, model_version="latest", input_features=row)
    assert (newest.status_code, newest.json()["model_version"]) == (200, "v1.1.0")
    assert [each["feature_name"] for each in newest.json()["force_data"]] != []
    unknown = explain(client, model_name=name, model_version="v9.0.0")
    assert (unknown.status_code, "Did you mean v1.0.0" in unknown.json()["hint"]) == (404, True)


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"model_name": "ghost"}, 404, "has no model ghost"),
        ({"prediction_id": "f-1", "input_features": None}, 400, "f-1 is no id of a forecast"),
        ({"prediction_id": "f-1"}, 400, "may be of two predictions"),
        ({"target_time": "2026-01-01T00:00:00Z"}, 400, "which step of a forecast"),
        (
            {"input_features": {"hour_of_day": 9, "lag_1h": 1}},
            400,
            "needs more columns: not among the columns: lag_24h",
        ),
        ({"input_features": ROW | {"temprature": 9}}, 400, "has no features temprature"),
        ({"input_features": None}, 400, "has no input_features"),
        ({"input_features": {}}, 422, "body.input_features"),
        ({"input_features": ROW | {"lag_1h": "6"}}, 422, "body.input_features.lag_1h"),
        ({"explanation_type": "lime"}, 422, "body.explanation_type"),
        ({"max_samples": 5}, 422, "body.max_samples"),
        ({"max_samples": 2000}, 422, "body.max_samples"),
        ({"model_version": "../x"}, 422, "body.model_version"),
    ],
)
def test_request_that_cannot_be__is_refused_with_words(
    client: httpx.Client, changes: dict[str, Any], status: int, text: str
) -> None:
    answer = explain(client, **changes)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]
    assert answer.json()["hint"]


def _pickled() -> dict[str, bytes]:
    """A model whose files would run code where they are loaded."""
    flavors = {"python_function": {"loader_module": "mlflow.sklearn", "model_path": "model.pkl"}}
    return {
        "MLmodel": yaml.safe_dump({"flavors": flavors}).encode(),
        "model.pkl": b"cos\nsystem\n(S'false'\ntR.",
    }


def _many_outputs() -> dict[str, bytes]:
    draws = np.random.default_rng(3)
    data = lgb.Dataset(draws.normal(size=(90, 3)), draws.integers(0, 3, 90), feature_name=list(FEATURES))
    made = lgb.train({"objective": "multiclass", "num_class": 3, "verbosity": -1}, data, 2)
    return _booster_files(made.model_to_string().encode())


def _booster_files(text: bytes) -> dict[str, bytes]:
    body = booster_upload(TENANT, "x", booster(FEATURES, rounds=1))
    files = {each["path"]: each["content"] for each in body["artifact"]["files"]}
    return {"MLmodel": base64.b64decode(files["MLmodel"]), "data/model.lgb": text}


def _endless() -> dict[str, bytes]:
    """A tree whose branches lead back to it."""
    text = booster(FEATURES, rounds=1).model_to_string()
    lines = [
        f"{line.partition('=')[0]}={' '.join('0' for _ in line.partition('=')[2].split())}"
        if line.startswith(("left_child=", "right_child="))
        else line
        for line in text.split("\n")
    ]
    return _booster_files("\n".join(line for line in lines if not line.startswith("tree_sizes")).encode())


@pytest.mark.parametrize("files", [_pickled, _many_outputs], ids=["pickled", "many outputs"])
def test_model_of_another_kind__is_refused_and_not_loaded(client: httpx.Client, files: Any) -> None:
    name = f"model-{secrets.token_hex(4)}"
    body = upload(TENANT, name, artifact={"type": "upload", "files": encoded(files())}, version="1.0.0")
    made = client.post("/ai/models/register", json=body)
    assert made.status_code == 201, made.text
    answer = explain(client, model_name=name, model_version="v1.0.0")
    assert answer.status_code == 409, answer.text
    assert "no LightGBM booster with one output" in answer.json()["message"]


def test_model_without_feature_service__is_not_explained_globally(client: httpx.Client) -> None:
    name = f"model-{secrets.token_hex(4)}"
    body = booster_upload(TENANT, name, booster(FEATURES, rounds=1), version="1.0.0")
    body["metadata"] = {"model_type": "x"}
    assert client.post("/ai/models/register", json=body).status_code == 201
    request = {"tenant_id": TENANT, "model_name": name, "model_version": "v1.0.0"}
    answer = client.post("/ai/explain/global", json=request)
    assert (answer.status_code, "which feature service" in answer.json()["message"]) == (409, True)


def test_model_that_forecasts_ahead__is_not_explained_globally(client: httpx.Client) -> None:
    files = _booster_files(booster(FEATURES, rounds=1).model_to_string().encode())
    card = ModelCard("nowhere", list(FEATURES), [], "electricity", ["nobody"], "kW", horizon_hours=48)
    described = yaml.safe_load(files["MLmodel"]) | {"metadata": card.as_metadata()}
    files["MLmodel"] = yaml.safe_dump(described).encode()
    name = f"model-{secrets.token_hex(4)}"
    body = upload(TENANT, name, artifact={"type": "upload", "files": encoded(files)}, version="1.0.0")
    made = client.post("/ai/models/register", json=body)
    assert made.status_code == 201, made.text
    request = {"tenant_id": TENANT, "model_name": name, "model_version": "v1.0.0"}
    answer = client.post("/ai/explain/global", json=request)
    # its feature service and assets, which are nowhere, are not asked for
    assert (answer.status_code, "no LightGBM booster with one output" in answer.text) == (409, True)


def test_damaged_model__ends_its_own_process_alone(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_hub.api.analyses.LONGEST_S", 3.0)
    name = f"model-{secrets.token_hex(4)}"
    body = upload(TENANT, name, artifact={"type": "upload", "files": encoded(_endless())}, version="1.0.0")
    assert client.post("/ai/models/register", json=body).status_code == 201
    answer = explain(client, model_name=name, model_version="v1.0.0")
    # it never ends, or its recursion does end the process
    assert answer.status_code in {409, 503}, answer.text
    monkeypatch.undo()
    assert explain(client).status_code == 200


def test_another_tenants_explanation__is_as_unknown_as_none(
    client: httpx.Client, city_works: CityWorks
) -> None:
    made = explain(client).json()["explanation_id"]
    other = {"X-API-Key": city_works.other_key}
    missing = str(uuid4())
    foreign, unknown = (
        client.get(f"/ai/explain/{each}", headers=other).json()["message"] for each in (made, missing)
    )
    assert foreign.replace(made, missing) == unknown
    assert client.get(f"/ai/explain/{made}", headers=other).status_code == 404
    assert client.get(f"/ai/explain/{made}", params={"tenant_id": TENANT}, headers=other).status_code == 403
    # the same name in another tenant is another model, of which there is none
    body = {"tenant_id": OTHER, "model_name": MODEL, "input_features": ROW}
    assert client.post("/ai/explain", json=body, headers=other).status_code == 404
    # nor is it a detection
    assert client.get(f"/ai/anomaly/{made}").status_code == 404
    assert json.loads(client.get(f"/ai/explain/{made}").content)["explanation_id"] == made


# ---- of a forecast


def forecast(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/ai/forecast", json={"tenant_id": TENANT, "asset_id": ASSETS[0], **fields})
    assert answer.status_code == 200, answer.text
    # written behind its answer
    assert client.get(f"/ai/forecast/{answer.json()['forecast_id']}").status_code == 200
    return dict(answer.json())


def explain_forecast(client: httpx.Client, forecast_id: str, **changes: Any) -> httpx.Response:
    body = {"tenant_id": TENANT, "model_name": AHEAD, "prediction_id": forecast_id} | changes
    return client.post("/ai/explain", json=body)


def logged(forecast_id: str) -> tuple[Run, bytes | None]:
    with connect() as connection:
        run = log.find_run(connection, TENANT, UUID(forecast_id))
        return run, log.read_features(connection, run)


@pytest.mark.parametrize(("quantile", "place"), [(None, 1), ("p90", 2)])
def test_step_of_a_forecast__is_explained_by_lightgbm(
    client: httpx.Client, city_works: CityWorks, quantile: str | None, place: int
) -> None:
    made = forecast(client, horizon_hours=6)
    point = made["forecasts"][4]
    answer = explain_forecast(
        client,
        made["forecast_id"],
        target_time=point["timestamp"],
        **({"quantile": quantile} if quantile else {}),
    )
    assert answer.status_code == 200, answer.text
    found = Explanation.model_validate(answer.json())
    assert found.forecast is not None
    assert (found.model_version, found.forecast.asset_id, found.forecast.lead_hours) == (
        "v1.0.0",
        ASSETS[0],
        4,
    )
    assert (found.forecast.explained, found.forecast.unit) == (quantile or "point_forecast", "kW")
    assert found.forecast.quantiles is not None
    assert found.forecast.quantiles.model_dump() == point["quantiles"]
    expected = point["quantiles"][quantile] if quantile else point["point_forecast"]
    assert found.metadata.prediction_value == expected
    contributions = {each.feature_name: each.contribution for each in found.feature_importances}
    assert sum(contributions.values()) == pytest.approx(expected - found.metadata.base_value)
    assert found.waterfall_data[-1].cumulative_value == pytest.approx(expected)

    run, features = logged(made["forecast_id"])
    assert features is not None
    loaded = production.load(production.production_versions(TENANT)[0])
    rows = features_of(city_works.settings, loaded, run, run.assets, features)
    size = level(rows, loaded.model.recipe.inputs)
    x = matrix(rows, np.array([[4]]), loaded.model.recipe.inputs, size)
    predictions = [float(each.predict(x)[0]) for each in loaded.model.quantiles]
    booster = loaded.model.quantiles[int(np.argsort(predictions)[place])]
    direct = size[0] * np.asarray(booster.predict(x, pred_contrib=True))[0]
    columns = loaded.model.recipe.inputs.columns
    assert {name: contributions[name] for name in columns} == pytest.approx(
        dict(zip(columns, direct[:-1], strict=True)), abs=1e-12
    )
    assert client.get(f"/ai/explain/{found.explanation_id}").content == answer.content


def test_forecast_of_several_assets__is_explained_from_what_was_known(
    client: httpx.Client, city_works: CityWorks
) -> None:
    (run,) = Issuer(city_works.settings, [TENANT]).issue_now().runs
    assert logged(str(run.run_id))[1] is None
    assert explain_forecast(client, str(run.run_id)).status_code == 400
    found = explain_forecast(client, str(run.run_id), asset_id=ASSETS[1])
    assert found.status_code == 200, found.text
    with connect() as connection:
        row = log.read_rows(connection, run, [ASSETS[1]])[0]
        # what nobody could have said then
        values = np.array([each.value for each in log.read_rows(connection, run)]).reshape(-1, run.leads)
        other = replace(run, run_id=log.new_run_id())
        log.write(connection, other, log.Grid(values * 2))
    assert found.json()["metadata"]["prediction_value"] == row.value
    refused = explain_forecast(client, str(other.run_id), asset_id=ASSETS[1])
    assert (refused.status_code, "cannot be made again to the bit" in refused.text) == (409, True)


def test_features_as_known_then__are_read_by_the_service_inside_the_tenant_scope(
    city_works: CityWorks,
) -> None:
    (run,) = Issuer(city_works.settings, [TENANT]).issue_now().runs
    loaded = production.load(production.production_versions(TENANT)[0])
    owner = SecretStr(city_works.settings.require("timescale_dsn"))
    alone = city_works.settings.model_copy(update={"timescale_dsn": None, "service_timescale_dsn": owner})
    found = features_of(alone, loaded, run, [ASSETS[1]], None)
    store = open_store(city_works.settings, known_at=run.known_at)
    expected = production.read_rows(store, loaded, [ASSETS[1]], run.issued_at)
    for name, values in {**expected.scalars, **expected.arrays}.items():
        np.testing.assert_array_equal((found.scalars | found.arrays)[name], values)
    # whatever is asked for
    foreign = open_tenant_store(alone, OTHER, known_at=run.known_at)
    rows = production.read_rows(foreign, loaded, [ASSETS[1]], run.issued_at)
    assert all(np.isnan(values).all() for values in [*rows.scalars.values(), *rows.arrays.values()])


def test_forecast_that_cannot_be_explained__says_why(client: httpx.Client) -> None:
    made = forecast(client)["forecast_id"]
    run, _ = logged(made)
    with connect() as connection:
        broken = replace(run, run_id=log.new_run_id(), manifest_sha256="0" * 64)
        log.write(connection, broken, log.Grid(np.ones((1, run.leads))))
        empty = replace(run, run_id=log.new_run_id())
        log.write(connection, empty, log.Grid(np.full((1, run.leads), np.nan)))
    for forecast_id, changes, status, text in (
        (made, {"model_name": MODEL}, 400, f"is one of {AHEAD}"),
        (made, {"model_version": "v9.0.0"}, 404, "Did you mean v1.0.0"),
        (made, {"asset_id": "nobody"}, 404, "is not of nobody"),
        (
            made,
            {"target_time": "2026-01-01T00:00:00Z"},
            400,
            "has no step that starts at 2026-01-01T00:00:00Z",
        ),
        (made, {"quantile": "p95"}, 422, "body.quantile"),
        (str(uuid4()), {}, 404, "no forecast run"),
        (str(broken.run_id), {}, 409, "are not those that run"),
        (str(empty.run_id), {}, 409, "features were missing"),
    ):
        answer = explain_forecast(client, forecast_id, **changes)
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    of_ahead = explain(client, model_name=AHEAD)
    assert (of_ahead.status_code, "is explained by its forecasts alone" in of_ahead.text) == (409, True)


def test_forecast_of_another_tenant__is_as_unknown_as_none(
    client: httpx.Client, city_works: CityWorks
) -> None:
    made = forecast(client)["forecast_id"]
    assert explain_forecast(client, made).status_code == 200
    other = {"X-API-Key": city_works.other_key}
    body = {"tenant_id": OTHER, "model_name": AHEAD, "prediction_id": made}
    theirs = client.post("/ai/explain", json=body, headers=other)
    missing = str(uuid4())
    unknown = client.post("/ai/explain", json=body | {"prediction_id": missing}, headers=other)
    assert (theirs.status_code, unknown.status_code) == (404, 404)
    assert theirs.json()["message"].replace(made, missing) == unknown.json()["message"]
    assert client.post("/ai/explain", json=body | {"tenant_id": TENANT}, headers=other).status_code == 403
    for scope in (Scope.FORECASTS_READ, Scope.MODELS_READ):
        _, key = api_keys.create(
            f"without-{secrets.token_hex(3)}", [TENANT], ALL_SCOPES - {scope}, created_by="test"
        )
        lacking = client.post(
            "/ai/explain", json=body | {"tenant_id": TENANT}, headers={"X-API-Key": str(key)}
        )
        assert lacking.status_code == 403
