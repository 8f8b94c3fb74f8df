from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING

import lightgbm
import mlflow
import mlflow.lightgbm
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from oracles.features import floor_hour
from playwright.sync_api import expect
from support.browser import visit
from support.energy import HOUR, add_meter
from support.service_server import running_service

from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from ai_hub.db.transactions import transaction
from ai_hub.dev.demo import drift
from ai_hub.dev.demo.run import predict
from ai_hub.forecasting import log, retraining
from ai_hub.settings import ServiceSettings, Settings
from mlflow_plugins.gates.comparison import records

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Demo
    from playwright.sync_api import Browser
    from support.browser import Registry

    from ai_hub.dev.demo.steps import Steps

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class Model:
    """A registered model with version 1 in Production and version 2 in Staging."""

    tenant: str
    name: str

    def stages(self) -> dict[int, str]:
        return {item.version: item.stage for item in registry.list_versions(self.tenant, self.name)}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained model, as MLflow saves it."""
    hours = np.arange(200).reshape(-1, 1) % 24
    booster = lightgbm.train(
        {"num_leaves": 4, "verbose": -1, "num_threads": 1}, lightgbm.Dataset(hours, hours[:, 0]), 2
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    signature = mlflow.models.infer_signature(hours.astype(float), booster.predict(hours))
    mlflow.lightgbm.save_model(booster, str(folder), signature=signature, pip_requirements=["lightgbm"])
    return folder


@pytest.fixture
def model(stack: dict[str, str], tenant: str, files: Path) -> Model:
    return _made(stack, Model(tenant, "load-forecast"), files)


def _made(stack: dict[str, str], model: Model, files: Path) -> Model:
    tenant = model.tenant
    registry.ensure_tenant(tenant)
    uri = stack["MLFLOW_TRACKING_URI"]
    client = mlflow.MlflowClient(uri, uri)
    with registry.tenant_scope(tenant):
        run = client.create_run(client.create_experiment("loads")).info.run_id
        client.log_artifacts(run, str(files), "model")
        client.create_registered_model(model.name)
        for _ in range(2):
            client.create_model_version(model.name, f"runs:/{run}/model", run)
    registry.promote(tenant, model.name, 1, reason="the first one")
    assert model.stages() == {1: "Production", 2: "Staging"}
    return model


def test_list_of_models__shows_each_tenant_its_own(
    aliases_page: Registry, stack: dict[str, str], model: Model, files: Path
) -> None:
    other = _made(stack, Model(f"{model.tenant}-b", "heat-forecast"), files)
    for each in (model, other):
        aliases_page.open_models(each.tenant)
        assert aliases_page.model_names() == [each.name]


@pytest.mark.timeout(900)
def test_first_half_of_the_demo__ends_with_predictions_of_what_it_promoted(
    forked_steps: Steps, aliases_page: Registry
) -> None:
    """The whole of it, with every week of both tenants, is in `make test-long`."""
    _, forecasters = predict(forked_steps, floor_hour(datetime.now(UTC)), weeks=16, tenants=["uk-home"])
    models = ["demand-forecast-electricity", "demand-forecast-gas"]
    assert sorted(each.model for each in forecasters) == models
    for each in forecasters:
        assert registry.production_version("uk-home", each.model).version == int(each.version)
    aliases_page.open_models("uk-home")
    assert set(models) <= set(aliases_page.model_names())
    assert forked_steps.done[-1].title == "Predict with the production models"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_models_of_the_demo__are_those_of_each_tenant(demo: Demo, aliases_page: Registry) -> None:
    forecasts = [f"{kind}-{of}" for kind in ("day-ahead", "demand-forecast") for of in ("electricity", "gas")]
    for tenant in demo.tenants:
        aliases_page.open_models(tenant)
        assert sorted(aliases_page.model_names()) == forecasts


@pytest.mark.long
@pytest.mark.timeout(900)
def test_model_of_the_demo__shows_its_production_version(demo: Demo, aliases_page: Registry) -> None:
    for tenant in demo.tenants:
        version = registry.production_version(tenant, "demand-forecast-electricity").version
        aliases_page.open_model(tenant, "demand-forecast-electricity")
        expect(aliases_page.label(version, "production")).to_be_visible()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_model_whose_load_has_changed__was_trained_anew_compared_and_promoted(demo: Demo) -> None:
    del demo
    newest = registry.list_versions(drift.TENANT, drift.MODEL)[0]
    assert newest.stage == "Production"
    before = newest.version - 1
    with transaction(Settings(), drift.TENANT) as connection:
        (request,) = retraining.find_all(connection, drift.TENANT)
        (shadow,), _ = log.list_runs(connection, drift.TENANT, role=log.Role.SHADOW)
    assert (request.status, request.version, request.new_version) == ("completed", before, newest.version)
    assert (shadow.version, shadow.status) == (newest.version, "complete")
    (compared,) = records(newest.tags, drift.TENANT, drift.MODEL, newest.version)
    assert (compared.production.version, compared.production.is_registered) == (before, True)
    assert (compared.challenger.is_registered, compared.weeks) == (False, 9)
    assert request.causes == ["error", "drift"]
    # the meter that changed, by as much as it did
    meter = next(each for each in request.evidence["drift"]["meters"] if each["asset"] == drift.METERS[1])
    assert meter["value"] / meter["usual"] == pytest.approx(1.6, rel=0.03)


@pytest.fixture
def forecast(stack: dict[str, str], tenant: str) -> str:
    """A meter with a week of readings and a forecast of two days in the log; returns its name."""
    migrate(stack["TIMESCALE_DSN"])
    now, asset = floor_hour(datetime.now(UTC)), "cold-store"
    add_meter(tenant, asset, "America/Chicago", now, weeks=1, level=3.0, seed=1)
    refresh()
    run = log.Run(
        *(tenant, "day-ahead-electricity", 1, "v1.0.0", "ab" * 32, log.Role.LIVE, now, now),
        step=HOUR,
        horizon=48 * HOUR,
        assets=(asset,),
        unit="kW",
    )
    values = np.full((1, 48), 6.0)
    with connect() as connection:
        log.write(connection, run, log.Grid(values, {0.1: values - 1, 0.5: values, 0.9: values + 1}))
    return asset


def test_page_of_forecasts__shows_readings_forecast_and_band(
    forecast: str, tenant: str, chromium: Browser
) -> None:
    _check_page_of_forecasts(chromium, tenant, forecast)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_page_of_forecasts__shows_that_of_the_demo(demo: Demo, chromium: Browser) -> None:
    _check_page_of_forecasts(chromium, demo.tenants[0], "electricity-cooled")


def _check_page_of_forecasts(chromium: Browser, tenant: str, asset: str) -> None:
    key = str(api_keys.create("page", [tenant], ALL_SCOPES, created_by="test")[1])
    patient = ServiceSettings(database_timeout_s=60, redis_timeout_s=5)
    with running_service(Settings(), patient) as url, visit(chromium, url) as window:
        page = window.page
        answer = page.goto(f"{url}/forecasts/")
        assert answer is not None
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        page.get_by_label("API key").fill("aih_wrong_key")
        page.get_by_role("button", name="List assets").click()
        expect(page.get_by_role("status")).to_contain_text("key")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="List assets").click()
        expect(page.get_by_role("status")).to_contain_text(f"assets of {tenant}.")
        page.get_by_label("Asset").select_option(asset)
        page.get_by_role("button", name="Show").click()
        chart = page.get_by_role("img", name=f"Forecast and actual values of {asset} (kW)")
        for part in (".actual", ".forecast", ".band", ".now"):
            expect(chart.locator(part).first).to_be_attached()
        expect(page.get_by_role("status")).to_have_text("48 hours with a forecast.")
        expect(page.get_by_role("table", name="Newest first")).to_contain_text("day-ahead-electricity")
        page.get_by_text("The values of the chart").click()
        expect(page.get_by_role("table", name="Times of America/Chicago")).to_be_visible()
        assert Axe().run(page).response["violations"] == []


def test_search_field__finds_models_by_stage(aliases_page: Registry, model: Model) -> None:
    aliases_page.open_models(model.tenant)
    page = aliases_page.page
    field = page.get_by_placeholder("Search registered models")
    field.fill("tags.lifecycle_stage = 'Archived'")
    field.press("Enter")
    expect(page.get_by_role("link", name=model.name)).to_have_count(0)
    field.fill("tags.lifecycle_stage = 'Production'")
    field.press("Enter")
    expect(page.get_by_role("link", name=model.name)).to_be_visible()


def test_model_of_another_tenant__is_not_found(aliases_page: Registry, model: Model, tenant: str) -> None:
    other = f"{tenant}-b"
    registry.ensure_tenant(other)
    aliases_page.page.goto(f"{aliases_page.url}/#/models/{model.name}?workspace={other}")
    expect(aliases_page.page.get_by_text("not found")).to_be_visible()
    expect(aliases_page.version_row(1)).to_have_count(0)


def test_alias_production__archives_the_version_it_displaces(aliases_page: Registry, model: Model) -> None:
    aliases_page.open_model(model.tenant, model.name)
    expect(aliases_page.label(1, "production")).to_be_visible()
    expect(aliases_page.label(2, "staging")).to_be_visible()

    dialog = aliases_page.add_alias(2, "production")

    expect(dialog).to_be_hidden()
    # MLflow's page does not fetch the versions again by itself
    aliases_page.page.reload()
    expect(aliases_page.label(2, "production")).to_be_visible()
    expect(aliases_page.label(1, "archived")).to_be_visible()
    expect(aliases_page.label(1, "production")).to_have_count(0)
    expect(aliases_page.label(2, "staging")).to_have_count(0)
    assert model.stages() == {1: "Archived", 2: "Production"}
    newest = registry.history(model.tenant, model.name, version=1)[0]
    assert newest.reason == "Displaced from Production by version 2."


def test_alias_dialog__says_why_a_move_is_refused(aliases_page: Registry, model: Model) -> None:
    aliases_page.open_model(model.tenant, model.name)

    dialog = aliases_page.add_alias(1, "staging")

    expect(dialog).to_contain_text("Version 1 of model load-forecast stays as it is.")
    expect(dialog).to_contain_text("Production → Staging is not allowed.")
    assert model.stages() == {1: "Production", 2: "Staging"}


def test_stage_menu__promotes_and_archives_the_version_it_displaces(
    stages_page: Registry, model: Model
) -> None:
    stages_page.open_version(model.tenant, model.name, 2)

    stages_page.change_stage("Staging", "Production")

    expect(stages_page.stage("Production")).to_be_visible()
    stages_page.open_model(model.tenant, model.name)
    expect(stages_page.label(2, "Production")).to_be_visible()
    expect(stages_page.label(1, "Archived")).to_be_visible()
    assert model.stages() == {1: "Archived", 2: "Production"}


def test_stage_menu__says_why_a_move_is_refused(stages_page: Registry, model: Model) -> None:
    stages_page.open_version(model.tenant, model.name, 1)

    stages_page.change_stage("Production", "Staging")

    notice = stages_page.page.get_by_role("alert")
    expect(notice).to_contain_text("Production → Staging is not allowed.")
    expect(stages_page.stage("Production")).to_be_visible()
    assert model.stages() == {1: "Production", 2: "Staging"}


ALIASES = ("staging", "production", "archived")
#: Chips that version 2, which is in Staging, gets instead of `staging`, and the stage it is in afterwards.
SWAPS = {("production",): "Production", ("archived",): "Archived", (): "Staging"}


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(added, marks=[] if number == 0 else pytest.mark.long)
        for number, added in enumerate(SWAPS)
    ],
)
def test_alias_dialog__chip_for_chip__shows_what_happened(
    aliases_page: Registry, model: Model, added: tuple[str, ...]
) -> None:
    aliases_page.open_model(model.tenant, model.name)
    refusal = aliases_page.swap_aliases(2, removed=["staging"], added=added)
    assert ("cannot be removed by itself" in refusal) == (not added)
    assert model.stages()[2] == SWAPS[added]
    aliases_page.page.reload()
    expect(aliases_page.label(2, SWAPS[added].lower())).to_be_visible()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", ALIASES)
def test_alias_dialog__any_chips__shows_what_happened(
    aliases_page: Registry, stack: dict[str, str], tenant: str, files: Path, start: str
) -> None:
    """As tests/integration/mlflow_plugins/test_alias_dialog.py, by hand."""
    uri = stack["MLFLOW_TRACKING_URI"]
    client = mlflow.MlflowClient(uri, uri)
    registry.ensure_tenant(tenant)
    drafts = [draft for count in range(4) for draft in combinations(ALIASES, count) if draft != (start,)]
    for number, draft in enumerate(drafts):
        name = f"model-{number}"
        with registry.tenant_scope(tenant):
            run = client.create_run(client.create_experiment(name)).info.run_id
            client.log_artifacts(run, str(files), "model")
            client.create_registered_model(name)
            client.create_model_version(name, f"runs:/{run}/model", run)
        if start != "staging":
            registry.promote(tenant, name, 1, stage=start.capitalize(), reason="to begin with")
        before = len(registry.history(tenant, name))
        aliases_page.open_model(tenant, name)
        refusal = aliases_page.swap_aliases(
            1, removed={start} - {*draft}, added=[alias for alias in draft if alias != start]
        )
        moves = registry.history(tenant, name)[: len(registry.history(tenant, name)) - before]
        stage = moves[0].to_stage if moves else start.capitalize()
        wanted = {*draft} - {start}
        # green: all that was typed happened; red: the text is of what did not
        if not refusal:
            assert {move.to_stage.lower() for move in moves} == wanted, draft
        elif len(wanted) < 2:
            assert not moves, (draft, refusal)
        aliases_page.page.reload()
        expect(aliases_page.label(1, stage.lower())).to_be_visible()
        expect(aliases_page.version_row(1).get_by_role("status").filter(has_text="@")).to_have_count(1)
