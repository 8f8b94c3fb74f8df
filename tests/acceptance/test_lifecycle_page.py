"""What reviewers do in a real browser on a server with login and gates: on our page, and on MLflow's own."""

from __future__ import annotations

import re
import secrets
import shutil
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib.figure import Figure
from playwright.sync_api import expect
from support import browser as pages
from support.people_server import password
from support.registry_servers import migrated_sqlite
from support.reviewed_models import OTHER_TENANT, TENANT, Reviews, reviews

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Protocol

    from playwright.sync_api import Browser, Page

    class Window(Protocol):
        def __call__(self, person: str, **options: Any) -> AbstractContextManager[pages.Registry]: ...


pytestmark = pytest.mark.browser
NO_REASON = "No reason was given."


@pytest.fixture(scope="module")
def shop(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviews]:
    folder = tmp_path_factory.mktemp("reviews")
    shutil.copy(migrated_sqlite(tmp_path_factory.getbasetemp()), folder / "mlflow.db")
    with reviews(f"sqlite:///{folder / 'mlflow.db'}", servers.start("s3"), folder) as running:
        yield running


@pytest.fixture
def window(chromium: Browser, shop: Reviews) -> Window:
    """A window of one person."""

    @contextmanager
    def opened(person: str, **options: Any) -> Iterator[pages.Registry]:
        with pages.visit(chromium, shop.url, login=(person, password(person)), **options) as window:
            yield window

    return opened


@pytest.fixture
def model(shop: Reviews) -> str:
    """A model of the test's own with version 1 in Production and version 2 in Staging."""
    return _new_model(shop)


@pytest.fixture(scope="module")
def steady(shop: Reviews) -> str:
    """A model like `model` that nobody moves."""
    return _new_model(shop)


def _new_model(shop: Reviews) -> str:
    name = f"model-{secrets.token_hex(4)}"
    shop.register(name, mae=1.5, rmse=2.0)
    shop.move(name, 1, "Production", "the first version")
    shop.register(name, mae=1.4, rmse=2.1)
    return name


def test_approver__promotes_with_a_reason_and_rolls_back(window: Window, shop: Reviews, model: str) -> None:
    with window("anna") as anna:
        anna.open_lifecycle()
        anna.page.get_by_role("link", name=TENANT).click()
        row = anna.page.get_by_role("row").filter(has_text=model)
        expect(row).to_contain_text("version 1 (v1.0.0)")
        expect(row).to_contain_text("anna")
        expect(row).to_contain_text("the first version")
        anna.page.get_by_role("link", name=model).click()
        candidate = anna.candidate(2)
        expect(candidate.get_by_role("row").filter(has_text="mae").first).to_contain_text("▼ 6.7 % lower")
        expect(candidate.get_by_role("row").filter(has_text="manifest")).to_contain_text("passes")

        candidate.get_by_label("Reason").fill("better in the cold week")
        candidate.get_by_role("button", name="Promote version 2 to Production").click()

        done = anna.page.get_by_role("status")
        expect(done).to_contain_text("Version 2 (v1.0.1): Staging → Production")
        expect(done).to_contain_text("Version 1 (v1.0.0): Production → Archived")
        expect(done).to_be_focused()
        assert shop.stages(model) == {1: "Archived", 2: "Production"}

        back = anna.page.get_by_role("form", name="Roll back")
        back.get_by_label("Reason").fill("worse since Monday")
        back.get_by_role("button", name="Roll back").click()

        expect(done).to_contain_text("Version 1 (v1.0.0): Archived → Production")
        trail = anna.page.get_by_role("table", name="Every change of stage").get_by_role("row")
        expect(trail.filter(has_text="worse since Monday")).to_contain_text("anna")
    assert shop.stages(model) == {1: "Production", 2: "Archived"}
    newest = next(entry for entry in shop.history(model) if entry.version == 1)
    assert (newest.actor, newest.actor_source, newest.reason) == (
        "anna",
        "authenticated",
        "worse since Monday",
    )


def test_refusal_of_a_gate__is_readable_and_keeps_the_reason(
    window: Window, shop: Reviews, model: str
) -> None:
    shop.register(model, mae=1.9)
    with window("anna") as anna:
        anna.open_lifecycle(TENANT, model)
        candidate = anna.candidate(3)
        candidate.get_by_label("Reason").fill("newest & fastest")
        candidate.get_by_role("button", name="Promote").click()

        refusal = anna.page.get_by_role("alert")
        expect(refusal).to_contain_text("Refused. Nothing has changed.")
        expect(refusal).to_contain_text("not_worse_than_production: mae is 1.9, that of version 1 (v1.0.0)")
        expect(refusal).to_be_focused()
        expect(anna.page).to_have_title(re.compile("^Refused"))
        expect(candidate.get_by_label("Reason")).to_have_value("newest & fastest")
    assert shop.stages(model) == {1: "Production", 2: "Staging", 3: "Staging"}


def test_viewer__cannot(window: Window, shop: Reviews, steady: str) -> None:
    with window("vera") as vera:
        vera.open_lifecycle(TENANT, steady)
        expect(vera.page.get_by_text("You may look at the models of city-works")).to_be_visible()
        expect(vera.candidate(2).get_by_role("table")).to_have_count(2)
        expect(vera.page.get_by_role("button")).to_have_text(["Show"])
        fields = {"action": "promote", "version": "2", "seen": "999999", "reason": "because I can"}
        answer = vera.page.request.post(vera.page.url, form=fields)
        assert answer.status == 403
        assert "You may not update model" in answer.text()
    assert shop.stages(steady) == {1: "Production", 2: "Staging"}


def test_another_tenant__sees_nothing(window: Window, shop: Reviews, steady: str) -> None:
    shop.register("turbines", tenant=OTHER_TENANT, person="bert", mae=1.0)
    with window("bert") as bert:
        bert.open_lifecycle()
        expect(bert.page.get_by_role("table").get_by_role("link")).to_have_text([OTHER_TENANT])
        for path in ((TENANT,), (TENANT, steady)):
            bert.open_lifecycle(*path)
            expect(bert.page.get_by_role("alert")).to_contain_text(f"There is no tenant {TENANT}")
            expect(bert.page.get_by_text("1.4")).to_have_count(0)


def test_keyboard_alone__promotes(window: Window, shop: Reviews, model: str) -> None:
    with window("anna") as anna:
        anna.open_lifecycle(TENANT, model)
        keys = anna.page.keyboard
        keys.press("Tab")
        expect(anna.page.get_by_role("link", name="Skip to the content")).to_be_focused()
        keys.press("Enter")
        reason = anna.candidate(2).get_by_label("Reason")
        for _ in range(30):
            keys.press("Tab")
            assert _focus_is_visible(anna.page)
            if reason.evaluate("element => element === document.activeElement"):
                break
        keys.type("reviewed without a mouse")
        keys.press("Tab")
        expect(anna.candidate(2).get_by_role("button", name="Promote")).to_be_focused()
        keys.press("Enter")
        expect(anna.page.get_by_role("status")).to_contain_text("Staging → Production")
    assert shop.stages(model) == {1: "Archived", 2: "Production"}


def _focus_is_visible(page: Page) -> bool:
    script = "() => getComputedStyle(document.activeElement).outlineStyle"
    return bool(page.evaluate(script) != "none")


def test_accessibility__of_every_page(window: Window, shop: Reviews, model: str) -> None:
    shop.register(model, mae=1.9)
    shop.move(model, 3, "Archived", "too slow", person="emil")
    with window("anna") as anna:
        for path in ((), (TENANT,), (TENANT, model), ("nowhere",)):
            anna.open_lifecycle(*path)
            _check_accessibility(anna.page)
        anna.open_lifecycle(TENANT, model)
        anna.candidate(2).get_by_role("button", name="Promote").click()
        expect(anna.page.get_by_role("alert")).to_be_visible()
        _check_accessibility(anna.page)
        anna.candidate(2).get_by_label("Reason").fill("lower in every week")
        anna.candidate(2).get_by_role("button", name="Promote").click()
        expect(anna.page.get_by_role("status")).to_be_visible()
        _check_accessibility(anna.page)


def _check_accessibility(page: Page) -> None:
    """axe-core finds nothing, nor in dark colours; headings step down by one; the language is named."""
    # styles may still be on their way when the text is there
    page.wait_for_load_state()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.emulate_media(color_scheme="dark")
    found = Axe().run(page, options={"runOnly": ["color-contrast"]})
    assert found.violations_count == 0, found.generate_report()
    page.emulate_media(color_scheme="light")
    names = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(element => element.tagName)")
    levels = [int(name[1]) for name in names]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.fixture(scope="module")
def wide(shop: Reviews) -> str:
    """A model whose names and texts have nowhere to break."""
    name = f"{'load-forecast-of-the-whole-district-' * 3}{secrets.token_hex(4)}"
    metric = "mean_absolute_error_of_the_coldest_week"
    assert len(metric) == 39
    for number in range(5):
        shop.register(name, mae=1.5 - number / 100, **{metric: 1.234567})
        if number < 2:
            shop.move(name, number + 1, "Production", f"because-{'of-the-cold-' * 20}")
    with shop.server.person("emil"), registry.tenant_scope(TENANT):
        client = shop.server.client()
        client.update_model_version(name, "3", DESCRIPTION)
        client.update_model_version(name, "2", DESCRIPTION)
        figure = Figure(figsize=(20, 2))
        figure.add_subplot().plot([1, 2])
        run = client.get_model_version(name, "3").run_id
        client.log_figure(run, figure, f"plots/{'error_of_each_hour_' * 8}.png")
    return name


DESCRIPTION = f"""# A heading
| a column of a table | {"another" * 20} |
|---|---|
| 1 | `{"code" * 40}` |

{"word" * 60} https://example.com/{"path/" * 40}

```
{"block" * 40}
```
"""


# 640 pixels are 1280 at 200 %, 390 a phone, and 320 what WCAG 2.1 asks for (1.4.10, reflow)
@pytest.mark.parametrize(
    "width", [320, *(pytest.param(wider, marks=pytest.mark.long) for wider in (390, 640))]
)
def test_narrow_window__needs_no_scrolling_sideways(window: Window, wide: str, width: int) -> None:
    with window("anna") as anna:
        for path in ((), (TENANT,), (TENANT, wide), (TENANT, wide, "versions", "3")):
            anna.page.set_viewport_size({"width": width, "height": 800})
            anna.open_lifecycle(*path)
            # what is folded may be as wide as it likes no more than the rest
            anna.page.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true; })")
            assert anna.page.evaluate("document.documentElement.scrollWidth") <= width
            for control in anna.page.get_by_role("button").all():
                box = control.bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width


def test_plots_of_a_version__are_drawn_in_its_card(window: Window, wide: str) -> None:
    with window("vera") as vera:
        vera.open_lifecycle(TENANT, wide, "versions", "3")
        plot = vera.page.get_by_role("img", name="error of each hour error of")
        plot.scroll_into_view_if_needed()
        # 20 inches of 100 pixels; 0 where the browser has refused it.
        # wait_for_function looks a second time by eval, which the page does not allow.
        expect(plot).to_have_js_property("naturalWidth", 2000)


def test_back_after_a_promotion__leaves_no_form_filled_for_another_version(
    window: Window, shop: Reviews, model: str
) -> None:
    shop.register(model, mae=1.41)
    shop.register(model, mae=1.42)
    with window("anna") as anna:
        anna.open_lifecycle(TENANT, model)
        anna.candidate(3).get_by_label("Reason").fill("meant for version 3 alone")
        anna.candidate(3).get_by_role("button", name="Promote").click()
        expect(anna.page.get_by_role("status")).to_contain_text("Version 3")

        anna.page.go_back()

        for version in (4, 2):
            expect(anna.candidate(version).get_by_label("Reason")).to_have_value("")
            hidden = anna.candidate(version).locator("input[name=version]")
            expect(hidden).to_have_value(str(version))
        expect(anna.candidate(3)).to_have_count(0)
        anna.candidate(2).get_by_role("button", name="Promote").click()
        expect(anna.page.get_by_role("alert")).to_contain_text(NO_REASON)
    assert shop.stages(model) == {1: "Archived", 2: "Staging", 3: "Production", 4: "Staging"}


def test_mlflow_alias__is_refused_without_a_reason__and_done_with_the_tag(
    window: Window, shop: Reviews, model: str
) -> None:
    with window("anna") as anna:
        anna.open_model(TENANT, model)
        refused = anna.add_alias(2, "production")
        expect(refused).to_contain_text(NO_REASON)
        expect(refused).to_contain_text("set the version's tag promotion.reason")
        assert shop.stages(model) == {1: "Production", 2: "Staging"}

        anna.page.reload()
        anna.version_row(1).wait_for()
        anna.add_tag(2, "promotion.reason", "quieter at night")
        expect(anna.add_alias(2, "production")).to_be_hidden()
    _check_promoted(shop, model, "quieter at night")


@pytest.mark.long  # as the alias dialog
def test_mlflow_stage_menu__is_refused_without_a_reason__and_done_with_the_tag(
    window: Window, shop: Reviews, model: str
) -> None:
    with window("anna", stages=True) as anna:
        anna.open_version(TENANT, model, 2)
        anna.change_stage("Staging", "Production")
        expect(anna.page.get_by_role("alert")).to_contain_text(NO_REASON)
        assert shop.stages(model) == {1: "Production", 2: "Staging"}

        anna.page.reload()
        anna.add_version_tag("promotion.reason", "quieter at night")
        anna.change_stage("Staging", "Production")
        expect(anna.stage("Production")).to_be_visible()
    _check_promoted(shop, model, "quieter at night")


def test_mlflow_stage_dialog__sends_its_comment_as_the_reason(
    window: Window, shop: Reviews, model: str
) -> None:
    with window("anna", stages=True) as anna:
        anna.open_version(TENANT, model, 2)
        anna.change_stage("Staging", "Production", comment="quieter at night; größer")
        expect(anna.stage("Production")).to_be_visible()
    _check_promoted(shop, model, "quieter at night; größer")


def test_mlflow_pages__lead_to_the_lifecycle_page__and_have_no_assistant(
    window: Window, chromium: Browser, shop: Reviews, steady: str
) -> None:
    with window("vera") as vera:
        vera.open_models(TENANT)
        expect(vera.page.get_by_role("link", name=f"Lifecycle of {TENANT}")).to_be_visible()
        vera.open_model(TENANT, steady)
        expect(vera.version_row(2)).to_contain_text("semantic_version")
        expect(vera.version_row(2)).not_to_contain_text(re.compile(r"manifest_sha256|ai_hub|more"))
        vera.open_version(TENANT, steady, 2)
        promote = vera.page.get_by_role("button", name="Promote model")
        expect(promote).to_have_attribute("title", re.compile("^Copies this version"))
        link = vera.page.get_by_role("link", name=f"Lifecycle of {steady} 2")
        link.click()
        expect(vera.page.get_by_role("heading", name=f"{steady}, version 2")).to_be_visible()
        vera.page.goto(f"{vera.url}/#/experiments")
        expect(link).to_be_hidden()
    with shop.server.person("vera"), registry.tenant_scope(TENANT):
        assert "ai_hub.card" in shop.server.client().get_model_version(steady, "2").tags
    # somebody without preferences
    login = {"username": "vera", "password": password("vera")}
    context = chromium.new_context(http_credentials=login)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{shop.url}/#/models?workspace={TENANT}")
    page.get_by_text("Registered Models").first.wait_for()
    assert page.locator('[data-assistant-ui="true"]').filter(visible=True).count() == 0
    context.close()


def test_engineer_requests__approver_decides(window: Window, shop: Reviews, model: str) -> None:
    with window("emil") as emil:
        emil.open_lifecycle(TENANT, model)
        emil.candidate(2).get_by_role("link", name="Card and comments").click()
        form = emil.page.get_by_role("form", name="Request the promotion")
        form.get_by_label("Why should it be promoted?").fill("lower on cold days")
        form.get_by_role("button").click()
        expect(emil.page.get_by_role("article", name="Request for promotion by emil")).to_be_visible()
        _check_accessibility(emil.page)
        for width in (320, 390):
            emil.page.set_viewport_size({"width": width, "height": 800})
            assert emil.page.evaluate("document.documentElement.scrollWidth") <= width
    with window("anna") as anna:
        anna.open_lifecycle(TENANT)
        queue = anna.page.get_by_role("region", name="Requests for promotion")
        expect(queue).to_contain_text("lower on cold days")
        _check_accessibility(anna.page)
        queue.get_by_role("link", name=f"{model} 2").click()
        anna.page.get_by_role("link", name="Decide on version 2").click()
        anna.candidate(2).get_by_role("link", name="What differs from production").click()
        expect(anna.page.get_by_role("row").filter(has_text="mae").first).to_contain_text("▼ 6.7 % lower")
        _check_accessibility(anna.page)
        anna.page.go_back()
        # the request says why
        anna.candidate(2).get_by_role("button", name="Promote").click()
        expect(anna.page.get_by_role("status")).to_contain_text("lower on cold days (requested by emil)")
        anna.open_lifecycle(TENANT)
        expect(anna.page.get_by_text("lower on cold days (requested")).to_be_visible()
    _check_promoted(shop, model, "lower on cold days (requested by emil)")


def _check_promoted(shop: Reviews, model: str, reason: str) -> None:
    assert shop.stages(model) == {1: "Archived", 2: "Production"}
    own = next(entry for entry in shop.history(model) if entry.version == 2)
    assert (own.to_stage, own.actor, own.actor_source, own.reason) == (
        "Production",
        "anna",
        "authenticated",
        reason,
    )


def test_mlflow_pages__where_our_links_lead__refuse_a_viewer_readably(
    window: Window, shop: Reviews, steady: str
) -> None:
    why = "Permission denied: your role in this tenant does not include that."
    with window("vera") as vera:
        vera.open_model(TENANT, steady)
        expect(vera.add_alias(2, "production")).to_contain_text(why)
    with window("vera", stages=True) as vera:
        vera.open_lifecycle(TENANT, steady)
        vera.candidate(2).get_by_role("link", name="Version 2 in MLflow").click()
        vera.change_stage("Staging", "Production")
        expect(vera.page.get_by_role("alert")).to_contain_text(why)
        vera.open_lifecycle(TENANT, steady)
        vera.candidate(2).get_by_role("link", name="Run of version 2").click()
        vera.page.wait_for_url(re.compile(r"/#/experiments/\d+/runs/[0-9a-f]{32}"))
        expect(vera.page.get_by_text("rmse").first).to_be_visible()
    assert shop.stages(steady) == {1: "Production", 2: "Staging"}
