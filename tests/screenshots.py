"""Pictures of the guides, taken from the running demo (`make demo`, then `make screenshots`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import browser
from playwright.sync_api import expect

from ai_hub import registry
from ai_hub.settings import Settings

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
TENANT, MODEL = "illinois", "demand-forecast-electricity"


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


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    show_every_stage()
    take_registry()
