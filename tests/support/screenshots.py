"""Pictures of the guides: of the running demo (`make demo`, then `make screenshots`), and of people at work.

The latter are on a server of their own with login and gates, so that there are roles and refusals to show.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import removed_after, start
from playwright.sync_api import expect

from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.dev.services import select
from ai_hub.settings import Settings
from support import browser
from support.people_server import password
from support.reviewed_models import TENANT as CITY
from support.reviewed_models import Reviews, reviews

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
TENANT, MODEL = "illinois", "demand-forecast-electricity"
REVIEWED = "load-forecast"
TRAINED_ANEW = ("harbour", "day-ahead-electricity", "versions", "2")


def show_every_stage() -> None:
    """Train until the model has a version in each stage, so that the picture shows a life, not a start."""
    while len(versions := registry.list_versions(TENANT, MODEL)) < len(("archived", "production", "staging")):
        if "Staging" in {item.stage for item in versions}:
            registry.promote(TENANT, MODEL, reason="better on the held-out weeks")
        train = [str(Path(sys.executable).with_name("ai-hub")), "train", "--tenant", TENANT]
        subprocess.run([*train, "--service", "forecast_advanced", "--kind", "electricity"], check=True)


def take_registry() -> None:
    """The versions of one model, with their aliases."""
    url = Settings().require("mlflow_tracking_uri")
    with browser.opened() as chromium, browser.visit(chromium, url, width=1440, height=940) as pages:
        pages.open_model(TENANT, MODEL)
        # the sidebar that lists models
        pages.page.get_by_text("Model training").click()
        for version in registry.list_versions(TENANT, MODEL):
            expect(pages.label(version.version, version.stage.lower())).to_be_visible()
        pages.page.screenshot(path=FOLDER / "registry.png")


def take_service() -> None:
    """The pages of the REST service."""
    with browser.opened() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(f"{Settings().require('ai_hub_api_url')}/docs")
        expect(page.get_by_text("/ai/models/{model_id}/promote")).to_be_visible()
        page.screenshot(path=FOLDER / "service-docs.png")
        key = str(api_keys.create("screenshots", [TENANT], ALL_SCOPES, created_by="screenshots")[1])
        page.goto(f"{Settings().require('ai_hub_api_url')}/forecasts/")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="List assets").click()
        page.get_by_label("Asset").select_option("electricity-heated-cooled")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("img")).to_be_visible()
        page.screenshot(path=FOLDER / "forecasts-page.png", full_page=True)


def take_comparison() -> None:
    """How the demo's version that was trained anew compared with the one before."""
    url = Settings().require("mlflow_tracking_uri")
    with browser.opened() as chromium, browser.visit(chromium, url, width=1100, height=1000) as pages:
        pages.open_lifecycle(*TRAINED_ANEW)
        compared = pages.page.get_by_role("region", name="Compared with production")
        compared.screenshot(path=FOLDER / "lifecycle-comparison.png")


def take_reviews() -> None:
    """Refusals in MLflow's pages, and our own page."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        opened.enter_context(removed_after(folder / "state"))
        stack = start(folder / "state", select(["s3"]))
        shop = opened.enter_context(reviews(f"sqlite:///{folder / 'mlflow.db'}", stack, folder))
        _fill(shop)
        chromium = opened.enter_context(browser.opened())

        def window(person: str, **options: Any) -> browser.Registry:
            login = (person, password(person))
            return opened.enter_context(browser.visit(chromium, shop.url, login=login, **options))

        _take_refusals(window)
        _take_page(window)


def _fill(shop: Reviews) -> None:
    """A model with a life behind it, and two more for the list."""
    for number, mae in enumerate((1.52, 1.44, 1.47, 1.36, 1.31), start=1):
        shop.register(REVIEWED, mae=mae, rmse=1.3 * mae, r2=1 - mae / 8)
        if number in {1, 2, 4}:
            shop.move(
                REVIEWED, number, "Production", f"lower error in week {20 + number} of the held-out data"
            )
    shop.move(REVIEWED, 3, "Archived", "worse than v1.0.1 on cold days", person="emil")
    shop.register("solar-forecast", mae=0.8)
    shop.move("solar-forecast", 1, "Production", "the first version for the roofs of 2026")
    shop.register("leak-detection", mae=0.3)


def _take_refusals(window: Callable[..., browser.Registry]) -> None:
    """A promotion without a reason, by alias and by stage menu."""
    anna = window("anna")
    anna.open_model(CITY, REVIEWED)
    expect(anna.add_alias(5, "production")).to_contain_text("No reason was given.")
    anna.page.screenshot(path=FOLDER / "registry-alias-refused.png")
    anna = window("anna", stages=True)
    anna.open_version(CITY, REVIEWED, 5)
    anna.change_stage("Staging", "Production")
    expect(anna.page.get_by_role("alert")).to_contain_text("No reason was given.")
    anna.page.screenshot(path=FOLDER / "registry-stage-refused.png")


def _take_page(window: Callable[..., browser.Registry]) -> None:
    """Our own page, as an approver and as a viewer see it."""
    anna = window("anna", width=1100, height=480)
    anna.open_lifecycle(CITY)
    anna.page.screenshot(path=FOLDER / "lifecycle-models.png")
    anna.open_lifecycle(CITY, REVIEWED)
    anna.candidate(5).screenshot(path=FOLDER / "lifecycle-candidate.png")
    anna.page.get_by_role("region", name="A metric over the versions").screenshot(
        path=FOLDER / "lifecycle-metric.png"
    )
    anna.page.get_by_role("region", name="Audit trail").first.screenshot(path=FOLDER / "lifecycle-trail.png")
    anna.candidate(5).get_by_label("Reason").fill("better")
    anna.candidate(5).get_by_role("button", name="Promote").click()
    expect(anna.page.get_by_role("alert")).to_be_visible()
    anna.page.screenshot(path=FOLDER / "lifecycle-refused.png")
    vera = window("vera", width=1100, height=1300)
    vera.open_lifecycle(CITY, REVIEWED)
    vera.page.screenshot(path=FOLDER / "lifecycle-viewer.png")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    take_reviews()
    take_service()
    take_comparison()
    show_every_stage()
    take_registry()
