"""MLflow's registry pages in a real Chromium. They poll, so wait for elements, never for a quiet network."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from support.machine import chromium

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playwright.sync_api import Browser

_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Choices a person makes on the first visit; `%s` is whether the pages show stages instead of aliases.
_PREFERENCES: Final = """
    if (!sessionStorage.getItem("is_old")) localStorage.clear();
    sessionStorage.setItem("is_old", "true");
    localStorage.setItem("_mlflow_model_registry_promo_modal_dismissed_v1", "true");
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
    localStorage.setItem("_mlflow_user_setting_dismiss_next_model_registry_ui", "%s");
"""
_TIMEOUT_MS: Final = 60_000
#: What was loaded for a person stays for the next window: MLflow's scripts are most of what a page costs.
_CONTEXTS: Final[dict[tuple[str, str] | None, BrowserContext]] = {}

# five seconds are not enough for a busy machine
expect.set_options(timeout=30_000)


@contextmanager
def opened() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        program, variables = chromium()
        browser = playwright.chromium.launch(
            executable_path=program, headless=True, args=_FLAGS, env={**os.environ, **variables}
        )
        yield browser
        _CONTEXTS.clear()
        browser.close()


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    stages: bool = False,
    width: int = 1280,
    height: int = 800,
    login: tuple[str, str] | None = None,
) -> Iterator[Registry]:
    """The registry of the MLflow server at `url`, seen by somebody without history.

    Args:
        browser: whose window to open.
        url: the server's.
        stages: whether MLflow's pages show stages instead of aliases.
        width: of the window, in pixels.
        height: of the window, in pixels.
        login: name and password.
    """
    if login not in _CONTEXTS:
        _CONTEXTS[login] = browser.new_context(
            http_credentials={"username": login[0], "password": login[1]} if login else None
        )
    context = _CONTEXTS[login]
    context.set_default_timeout(_TIMEOUT_MS)
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.add_init_script(_PREFERENCES % ("true" if stages else "false"))
    try:
        yield Registry(page, url)
    finally:
        page.close()
        context.clear_cookies()


@dataclass(frozen=True)
class Registry:
    """What people do on the registry's pages."""

    page: Page
    url: str

    def open_models(self, tenant: str) -> None:
        """List of a tenant's models."""
        self._go("models", tenant)
        self.page.get_by_role("heading", name="Registered Models").wait_for()

    def model_names(self) -> list[str]:
        """Names in the list, once it is there."""
        links = self.page.get_by_role("table").get_by_role("link")
        links.first.wait_for()
        # versions and aliases in the list are links, too
        path = re.compile(r"#/models/[^/?]+(\?|$)")
        return [link.inner_text() for link in links.all() if path.match(link.get_attribute("href") or "")]

    def open_model(self, tenant: str, model: str) -> None:
        """Versions of a model."""
        self._go(f"models/{model}", tenant)
        self.version_row(1).wait_for()

    def open_version(self, tenant: str, model: str, version: int) -> None:
        """One version."""
        self._go(f"models/{model}/versions/{version}", tenant)
        self.page.get_by_role("heading", name=f"Version {version}").wait_for()

    def version_row(self, version: int) -> Locator:
        """Row of a version in the model's table."""
        link = self.page.get_by_role("link", name=f"Version {version}", exact=True)
        return self.page.get_by_role("row").filter(has=link)

    def label(self, version: int, text: str) -> Locator:
        """The alias or stage `text` in a version's row."""
        return self.version_row(version).get_by_role("status").filter(has_text=text)

    def add_alias(self, version: int, alias: str) -> Locator:
        """Add an alias in the dialog and save; returns the dialog, which stays open on a refusal."""
        # tags and aliases have a button each; that of the aliases is the last one
        self.version_row(version).get_by_role("button").last.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("combobox").fill(alias)
        self.page.keyboard.press("Enter")
        dialog.get_by_role("button", name="Save aliases").click()
        return dialog

    def swap_aliases(self, version: int, *, removed: Iterable[str], added: Iterable[str]) -> str:
        """Take off and type chips in the dialog and save; returns the refusal that it shows, or nothing."""
        self.version_row(version).get_by_role("button").last.click()
        dialog = self.page.get_by_role("dialog")
        for alias in removed:
            dialog.get_by_role("status").filter(has_text=alias).get_by_role("button").click()
        for alias in added:
            dialog.get_by_role("combobox").fill(alias)
            self.page.keyboard.press("Enter")
        # that another version has the alias is told in a box, too
        told = dialog.get_by_role("alert").count()
        dialog.get_by_role("button", name="Save aliases").click()
        while dialog.is_visible() and dialog.get_by_role("alert").count() == told:
            self.page.wait_for_timeout(100)
        return dialog.get_by_role("alert").nth(told).inner_text() if dialog.is_visible() else ""

    def add_tag(self, version: int, key: str, value: str) -> None:
        """Add a version tag in the dialog of the model's table."""
        self.version_row(version).get_by_role("button").first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("combobox").fill(key)
        self.page.keyboard.press("Enter")
        dialog.get_by_placeholder("Type a value").fill(value)
        self.page.keyboard.press("Enter")
        dialog.get_by_role("button", name="Save tags").click()
        expect(dialog).to_be_hidden()

    def add_version_tag(self, key: str, value: str) -> None:
        """Add a tag in the form of a version's page, as MLflow shows it beside the stage menu."""
        main = self.page.locator("main")
        main.get_by_placeholder("Name").fill(key)
        main.get_by_placeholder("Value").fill(value)
        main.get_by_role("button", name="Add", exact=True).click()
        expect(main.get_by_role("cell", name=value)).to_be_visible()

    def open_lifecycle(self, *path: str) -> None:
        """Our own page: the list, or that of a tenant or a model."""
        self.page.goto("/".join((f"{self.url}/lifecycle", *path)))

    def candidate(self, version: int) -> Locator:
        """What our own page says about a version in Staging."""
        return self.page.get_by_role("article", name=re.compile(rf"^Version {version}\b"))

    def stage(self, text: str) -> Locator:
        """The stage shown on a version's page."""
        return self.page.locator("main").get_by_role("status").filter(has_text=text)

    def change_stage(self, current: str, target: str, comment: str | None = None) -> None:
        """Choose another stage in the menu of a version's page and confirm, with a comment in the dialog."""
        self.stage(current).click()
        self.page.get_by_role("menuitem").filter(has_text=target).click()
        if comment:
            self.page.get_by_role("dialog").get_by_role("textbox").fill(comment)
        self.page.get_by_role("dialog").get_by_role("button", name="OK").click()

    def _go(self, path: str, tenant: str) -> None:
        # another fragment of the same page would leave the last tenant's list until the new one is there
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#/{path}?workspace={tenant}")
