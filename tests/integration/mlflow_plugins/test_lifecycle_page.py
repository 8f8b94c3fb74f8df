"""The page at `/lifecycle` over HTTP, on a registry of the test's own without login and workspaces."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
import sqlalchemy as sa
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model
from support.comparisons import record, shadow, stand_in
from support.html_pages import Parsed
from support.properties import examples

from mlflow_plugins.gates.comparison import record_tag
from mlflow_plugins.lifecycle.discussions import Discussions
from mlflow_plugins.store.lifecycle_store import LifecycleStore
from mlflow_plugins.users import permissions
from mlflow_plugins.web.lifecycle import model_page, render, views, visitor
from mlflow_plugins.web.lifecycle.app import create_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlflow_plugins.lifecycle.audit import Transition

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</textarea></form><form action=//evil>",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt; &amp; &#60;",
    "\u2026\u202eevil",
)


@dataclass
class Page:
    """The page of one registry without login and without workspaces."""

    url: str
    store: LifecycleStore

    def get(self, path: str = "", **query: Any) -> requests.Response:
        return requests.get(f"{self.url}/lifecycle{path}", params=query, timeout=30)

    def model(self, name: str, **query: Any) -> requests.Response:
        return self.get(f"/default/{quote(name, safe='')}", **query)

    def post(self, name: str, **fields: Any) -> requests.Response:
        return requests.post(
            f"{self.url}/lifecycle/default/{quote(name, safe='')}",
            data={"reason": "as agreed", "seen": self.seen(name), **fields},
            timeout=30,
        )

    def seen(self, name: str) -> str:
        """What every form of the page carries."""
        forms = [form for form in Parsed.of(self.model(name)).forms if "seen" in form]
        return forms[0]["seen"] if forms else "0"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Address of the page, which `page` gives a registry."""
    server = uvicorn.Server(uvicorn.Config(create_page(), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(url: str, sqlite_store: LifecycleStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr(views, "registry_store", lambda: sqlite_store)
    return Page(url, sqlite_store)


def test_lists__count_what_is_there(page: Page) -> None:
    first, second = Model(page.store), Model(page.store)
    first.move(first.register(), "Production")
    first.register()
    second.register()
    second.move(second.register(), "Archived")
    page.store.create_registered_model("prompt", [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")])

    tenants, models = Parsed.of(page.get()), Parsed.of(page.get("/default"))

    assert re.search(r"default\s+2\s+1\s+2\s", tenants.text)
    assert re.search(rf"{first.name}\s+version 1 \(v1.0.0\)\s.+ UTC\s+unknown\s+—\s+1\s", models.text)
    assert re.search(rf"{second.name}\s+nothing\s+—\s+—\s+—\s+1\s", models.text)
    assert "prompt" not in models.text
    assert page.model("prompt").status_code == 404


def test_moves__show_what_happened_and_record_who_and_why(page: Page) -> None:
    model = Model(page.store)
    for _ in range(2):
        model.register()
    for wish, stages in (
        ({"action": "promote", "version": 1}, {1: "Production", 2: "Staging"}),
        ({"action": "promote", "version": 2}, {1: "Archived", 2: "Production"}),
        ({"action": "rollback", "version": 1}, {1: "Production", 2: "Archived"}),
        ({"action": "restore", "version": 2}, {1: "Production", 2: "Staging"}),
        ({"action": "reject", "version": 2}, {1: "Production", 2: "Archived"}),
    ):
        answer = page.post(model.name, **wish, reason=f"because of {wish['action']}", user="ada")
        assert answer.status_code == 200
        assert [hop.status_code for hop in answer.history] == [303]
        assert model.stages() == stages
        own = page.store.history(model.name, wish["version"], limit=1)[0]
        assert (own.reason, own.actor, own.actor_source) == (f"because of {wish['action']}", "ada", "claimed")
        text = " ".join(Parsed.of(answer).text.split())
        assert (
            f"Done. Version {own.version} ({own.semantic_version}): {own.from_stage} → {own.to_stage}" in text
        )
    model.check()


def test_promotion__tells_whom_it_displaced(page: Page) -> None:
    model = Model(page.store)
    for _ in range(2):
        page.post(model.name, action="promote", version=model.register())
    shown = Parsed.of(page.post(model.name, action="rollback", version=1))
    assert re.search(r"Version 1 \(v1.0.0\):\s+Archived → Production", shown.text)
    assert re.search(r"Version 2 \(v1.0.1\):\s+Production → Archived", shown.text)


def test_refusal__says_why_and_keeps_what_was_typed(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("defaults:\n  reason: true\n  required_metrics: {metrics: [mae, rmse]}\n")
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(policy))
    model = Model(page.store)
    model.register()

    answer = page.post(model.name, action="promote", version=1, reason="two\nlines & <b>", user="ada")

    assert answer.status_code == 409
    shown = Parsed.of(answer)
    assert ("div", ("role", "class", "tabindex", "autofocus")) in shown.elements
    assert "1 of 3 gates to Production refuses it." in shown.text
    assert "• required_metrics: Metric mae of version 1 (v1.0.0) was not recorded" in shown.text
    assert (shown.forms[0]["reason"], shown.forms[0]["user"]) == ("two\nlines & <b>", "ada")
    assert model.stages() == {1: "Staging"}
    assert re.search(r"reason\s+✗ refuses\s+", Parsed.of(page.model(model.name)).text)


def test_form__sent_twice__moves_once(page: Page) -> None:
    model = Model(page.store)
    for _ in range(3):
        model.register()
    for version in (1, 2):
        model.move(version, "Production")
    for wish in (
        {"action": "promote", "version": 3},
        {"action": "rollback", "version": 1},
        {"action": "restore", "version": 2},
        {"action": "reject", "version": 2},
    ):
        seen = page.seen(model.name)
        before = len(page.store.history(model.name))
        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(page.post, model.name, **wish, seen=seen) for _ in range(4)]
            answers = [waiting.result() for waiting in sent]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.url for answer in answers}) == 1
        displaced = wish["action"] in {"promote", "rollback"}
        assert len(page.store.history(model.name)) == before + 1 + displaced
    model.check()


def test_form__sent_twice__the_first_moves_while_the_second_reads__is_told_of_it(
    store: LifecycleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(store)
    version = model.register()
    production_at = store.production_at

    def moved_first(name: str, at_ms: int) -> Transition | None:
        model.move(version, "Production")
        return production_at(name, at_ms)

    monkeypatch.setattr(store, "production_at", moved_first)
    seen = store.history(model.name, limit=1)[0].id

    told = visitor.carry_out(store, model.name, visitor.Form("promote", version, "", "", seen))

    assert (told.version, told.to_stage) == (version, "Production")
    assert len(store.history(model.name)) == 2


def test_form__of_an_old_page__changes_nothing(page: Page) -> None:
    model = Model(page.store)
    for _ in range(2):
        model.register()
    seen = page.seen(model.name)
    for version in (1, 2):
        model.move(version, "Production")

    # it would be a rollback now
    answer = page.post(model.name, action="promote", version=1, seen=seen, reason="a good one")

    assert answer.status_code == 409
    shown = Parsed.of(answer).text
    assert "Version 1 has changed since you opened the page: unknown moved it to Archived." in shown
    assert "You gave the reason: a good one" in shown
    assert model.stages() == {1: "Archived", 2: "Production"}

    seen = page.seen(model.name)
    model.move(model.register(), "Production")
    # it would displace another version than the one that was shown
    answer = page.post(model.name, action="rollback", version=1, seen=seen)
    assert answer.status_code == 409
    assert "Version 3 has changed since you opened the page" in Parsed.of(answer).text
    assert model.stages() == {1: "Archived", 2: "Archived", 3: "Production"}


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"action": "delete"}, 400, "Choose one of promote, reject, restore, rollback."),
        ({"action": ""}, 400, "Choose one of"),
        ({"version": "first"}, 400, "Choose a version."),
        ({"version": "-1"}, 400, "Choose a version."),
        ({"version": "٣"}, 400, "Choose a version."),
        ({"version": "9" * 30}, 400, "Choose a version."),
        ({"version": "3"}, 404, "not found"),
        ({"reason": "x" * 5001}, 400, "5001 characters; at most 5000"),
        ({"reason": "a\0b"}, 400, "NUL"),
        ({"user": "a\0b"}, 400, "NUL"),
        ({"user": "x" * 300}, 400, "at most 256"),
        ({"reason": "x" * 200_000}, 400, "larger than"),
        ({"seen": "nothing"}, 409, "has changed since you opened the page"),
    ],
)
def test_form__that_no_page_sends__is_refused_readably(
    page: Page, fields: dict[str, str], status: int, text: str
) -> None:
    model = Model(page.store)
    model.register()
    answer = page.post(model.name, **{"action": "promote", "version": "1", **fields})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert text in Parsed.of(answer).text
    assert model.stages() == {1: "Staging"}


@pytest.mark.parametrize(
    "path",
    [
        "/acme",
        "/default/nothing",
        "/default/nothing/plot.svg?metric=mae",
        "/default/a%00b",
        "/default/a/b/c",
        "/..%2f..%2fetc",
        "/default/nothing?before=0",
        "/default/nothing?before=99999999999999999999",
        "/default/nothing?done=x",
    ],
)
def test_address__of_nothing__is_answered_with_a_page(page: Page, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code in {400, 404}
    assert "To the list of tenants" in Parsed.of(answer).text


def test_headers__let_nothing_run_and_nothing_be_kept(page: Page) -> None:
    model = Model(page.store)
    model.register()
    for answer in (page.get(), page.get("/default"), page.model(model.name), page.get("/nothing")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert 'style="' not in answer.text
        assert "<script" not in answer.text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<", "\"'><img src=x onerror=alert(1)>", "{{ 7*7 }}", "50% & more? #1", "a\\b"]
)
def test_names__of_an_older_registry__are_text(page: Page, name: str) -> None:
    SqlAlchemyStore.create_registered_model(page.store, name)
    SqlAlchemyStore.create_model_version(page.store, name, "elsewhere", description=name)
    page.store.transition_model_version_stage(name, 1, "Staging", archive_existing_versions=False)
    model = Model(page.store, name)
    listed = page.get("/default")
    assert name in Parsed.of(listed).text
    shown = page.model(name)
    assert shown.status_code == 200
    assert Parsed.of(shown).elements == Parsed.of(_plain(page)).elements
    assert page.post(name, action="promote", version=1).status_code == 200
    assert model.stage(1) == "Production"


def _plain(page: Page) -> requests.Response:
    SqlAlchemyStore.create_registered_model(page.store, "plain")
    SqlAlchemyStore.create_model_version(page.store, "plain", "elsewhere", description="plain")
    page.store.transition_model_version_stage("plain", 1, "Staging", archive_existing_versions=False)
    return page.model("plain")


@settings(max_examples=examples(8))
@given(
    st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
)
def test_texts__whatever_they_are__are_text(page: Page, text: str) -> None:
    def life(words: str) -> tuple[list[Any], str]:
        model = Model(page.store)
        model.register()
        model.tag(1, permissions.REASON_TAG, words)
        model.tag(1, permissions.ACTOR_TAG, words)
        model.move(1, "Production")
        parsed = Parsed.of(page.model(model.name, done=page.store.history(model.name)[0].id))
        return parsed.elements, parsed.text.replace(model.name, "the model")

    elements, shown = life(text)
    harmless, expected = life("harmless")
    assert elements == harmless
    assert shown.count(text) >= expected.count("harmless") > 3


#: What a description can become, and no attributes but those.
MARKDOWN = {
    *((name, ()) for name in ("p", "strong", "em", "code", "pre", "ul", "li", "blockquote", "hr", "br")),
    *((name, ()) for name in ("table", "thead", "tbody", "tr", "td", "th")),
    *(("ol", attributes) for attributes in ((), ("start",))),
    *(("a", attributes) for attributes in (("href",), ("href", "title"))),
    ("code", ("class",)),
}


@settings(max_examples=examples(8))
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                (*HOSTILE, "# x\n", "![a](http://evil/b.png)", "[a](javascript:b)", "<http://a>")
            ),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.sampled_from("\n\n\n#*_`[]()<>|-!&:/"),
        ),
        max_size=12,
    ).map("".join)
)
@example("[a](JaVaScript:b) <javascript:b> [c](data:text/html,d) [e]: vbscript:f\n\n![g][e] [h](//evil)")
@example("|a|\n|:-:|\n|<img src=x onerror=y>|\n\n> ~~~ html\n> <script>\n> ~~~")
def test_descriptions__whatever_they_are__are_markdown_that_fetches_and_runs_nothing(text: str) -> None:
    shown = render.markdown(text)
    page = Parsed()
    page.feed(shown)
    page.close()
    assert set(page.elements) <= MARKDOWN
    for address in re.findall(r'(?:href|src)="([^"]*)"', shown):
        assert address.lower().startswith(("http://", "https://", "mailto:"))


def test_description__is_shown_as_in_mlflow(page: Page) -> None:
    model = Model(page.store)
    text = "# Limits\n- **gas** only, see [the report](https://example.com/r)\n\n|a|b|\n|-|-|\n|1|2|"
    page.store.create_model_version(model.name, "elsewhere", description=text)
    for stage in (None, "Production"):
        if stage:
            model.move(1, stage)
        shown = page.model(model.name).text
        assert "<p><strong>Limits</strong></p>" in shown
        assert '<strong>gas</strong> only, see <a href="https://example.com/r">the report</a>' in shown
        assert "<td>2</td>" in shown


def test_trail__is_read_page_by_page(page: Page) -> None:
    model = Model(page.store)
    model.register()
    for number in range(30):
        model.tag(1, permissions.REASON_TAG, f"move {number};")
        model.move(1, "Archived" if number % 2 == 0 else "Staging")
    found: list[str] = []
    address = f"/default/{model.name}"
    for _ in range(2):
        shown = page.get(address)
        trail = shown.text.split('<h2 id="trail">')[1]
        found += re.findall(r"move \d+;", trail)
        older = re.search(r'href="/lifecycle([^"]+before=[^"]+)">Older entries', shown.text)
        address = older[1] if older else ""
    assert found == [f"move {number};" for number in reversed(range(30))]
    assert not address


def test_page__of_a_long_life__stays_short(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_page, "CANDIDATES", 2)
    monkeypatch.setattr(model_page, "RECENT", 3)
    model = Model(page.store)
    for _ in range(5):
        model.register()
    model.move(1, "Production")
    shown = Parsed.of(page.model(model.name)).text
    assert re.findall(r"Promote version (\d)", shown) == ["5", "4"]
    assert "2 of 4 candidates." in shown
    assert "Version 1 (v1.0.0)\n    since" in shown
    points = model_page.assemble(page.store, "default", model.name).points
    assert [point.version for point in points] == [3, 4, 5]
    # the next page, also after a refusal there
    older = {"staged_before": re.findall(r"staged_before=(\d)#", page.model(model.name).text)[0]}
    answer = page.model(model.name, **older)
    assert re.findall(r"Promote version (\d)", Parsed.of(answer).text) == ["3", "2"]
    assert "Older candidates" not in answer.text
    (form,) = (form for form in Parsed.of(answer).forms if form.get("version") == "2")
    refused = page.post(model.name, **form | {"action": "promote", "seen": "0"})
    assert refused.status_code == 409
    assert re.findall(r"Promote version (\d)", Parsed.of(refused).text) == ["3", "2"]
    points = model_page.assemble(page.store, "default", model.name, before=3).points
    assert [point.version for point in points] == [1, 2]


def test_many_versions__are_folded(page: Page, measured: Callable[[str], None]) -> None:
    model = Model(page.store)
    for _ in range(50):
        model.register()
    measured(model.name)
    answer = page.model(model.name)
    shown = Parsed.of(answer)
    articles = [name for name, _ in shown.elements if name in {"article", "details"}]
    assert articles[:3] == ["article"] * 3
    assert articles[3:] == ["details", "article"] * 17 + ["details"]
    assert "20 of 50 candidates." in shown.text
    assert "40 more versions" in shown.text
    assert "<details>\n    <summary>Version 47 (" in answer.text
    # what the visitor asks about is open
    asked = page.model(model.name, gates=40).text
    assert "<details open>\n    <summary>Version 40 (" in asked
    assert asked.count("<details open>") == 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give every version of a model metrics `a` and `mae`, as registered folders on a server have them."""

    def measure(name: str) -> None:
        del name
        metrics = {number: {"a": 1.0, "mae": 1 / number} for number in range(1, 100)}
        monkeypatch.setattr(model_page.metrics, "read", lambda *_: (metrics, {}))

    return measure


def test_plot__is_of_the_metric_the_gates_judge_by(
    page: Page, measured: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(page.store)
    model.register()
    measured(model.name)
    policy = tmp_path / "policy.yaml"
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(policy))
    for gates, metric in (
        ("{}", "a"),
        ("{required_metrics: {metrics: [unknown, mae]}}", "mae"),
        (
            "{required_metrics: {metrics: [a]}, not_worse_than_production: {metric: mae, better: lower}}",
            "mae",
        ),
        ("{no_such_gate: true}", "a"),
    ):
        policy.write_text(f"defaults: {gates}\n")
        assert f"<option selected>{metric}</option>" in page.model(model.name).text
        assert "<option selected>a</option>" in page.model(model.name, metric="a").text


def test_what_was_deleted__stays_in_the_trail(page: Page) -> None:
    model, other = Model(page.store), Model(page.store)
    other.register()
    model.register()
    page.store.remove_version(model.name, 1, force=True, reason="leaks names", claim="ada")
    shown = Parsed.of(page.model(model.name)).text
    assert re.search(r"Staging\s+Deleted\s+ada \(claimed\)\s+leaks names", shown)
    assert "Deleted models" not in page.get("/default").text

    page.store.delete_registered_model(model.name)

    listed = Parsed.of(page.get("/default")).text.split("Deleted models")[1]
    assert re.search(rf"{model.name}\s+.* UTC\s+ada \(claimed\)\s+leaks names", listed)
    assert other.name not in listed
    answer = page.model(model.name)
    assert answer.status_code == 200
    assert "This model was deleted." in answer.text
    assert "leaks names" in answer.text
    assert page.post(model.name, action="promote", version=1).status_code == 404


def test_queries__do_not_grow_with_models_and_versions(page: Page) -> None:
    queries: list[str] = []
    sa.event.listen(
        page.store.engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2])
    )

    def counted(path: str) -> int:
        queries.clear()
        assert page.get(path).status_code == 200
        return sum(query.startswith("SELECT") for query in queries)

    model = Model(page.store)
    model.move(model.register(), "Production")
    model.move(model.register(), "Archived")
    paths = ("", "/default", f"/default/{model.name}")
    few = [counted(path) for path in paths]
    for _ in range(8):
        model.move(model.register(), "Archived")
    for other in (Model(page.store) for _ in range(4)):
        other.move(other.register(), "Production")
        other.register()
    assert [counted(path) for path in paths] == few == [4, 6, 9]


def test_card_and_comparison__of_versions_without_files(page: Page) -> None:
    model = Model(page.store)
    model.register(limits="Not for *roofs*.")
    model.register()
    shown = page.get(f"/default/{model.name}/versions/1")
    assert shown.status_code == 200
    assert "<p>Not for <em>roofs</em>.</p>" in shown.text
    assert "Nobody stated any." in page.get(f"/default/{model.name}/versions/2").text
    compared = page.get(f"/default/{model.name}/compare", left=1, right=2)
    assert compared.status_code == 200
    assert "Neither has metrics." in compared.text
    for path in ("versions/3", "compare?left=1&right=9", "versions/0", "versions/9999999999"):
        assert page.get(f"/default/{model.name}/{path}").status_code in {400, 404}


def test_requests_in_the_trail__are_on_the_page_of_their_time(page: Page) -> None:
    model, other = Model(page.store), Model(page.store)
    discussions = Discussions(page.store)
    model.register()
    wanted = []
    for number in range(15):
        discussions.request(model.name, 1, f"request {number};")
        other.register()
        model.tag(1, permissions.REASON_TAG, f"move {number};")
        model.move(1, "Archived")
        model.tag(1, permissions.REASON_TAG, f"back {number};")
        model.move(1, "Staging")
        wanted += [f"request {number};", f"move {number};", f"back {number};"]
    discussions.comment(model.name, 1, "comment 1;")
    found: list[str] = []
    address = f"/default/{model.name}"
    for _ in range(2):
        shown = page.get(address)
        trail = shown.text.split('<h2 id="trail">')[1]
        found += re.findall(r"(?:request|move|back|comment) \d+;", trail)
        older = re.search(r'href="/lifecycle([^"]+before=[^"]+)">Older entries', shown.text)
        address = older[1] if older else ""
    assert found == wanted[::-1]


def test_comparisons__of_a_version__are_shown_with_their_interval(page: Page) -> None:
    model = Model(page.store)
    for _ in range(2):
        model.register()
    of_this = {"tenant": "default", "model": model.name}
    found = record(**of_this, shadow=shadow(), groups={"meter <b>": -4.0})
    model.tag(2, record_tag(1), found.model_dump_json())
    model.tag(2, record_tag(7), "nonsense")
    model.tag(2, record_tag(8), record(model="another", production=stand_in(8)).model_dump_json())
    shown = " ".join(Parsed.of(page.get(f"/default/{model.name}/versions/2")).text.split())
    assert "Compared with production Beside version 1, looked at 2026-11-30 00:00 UTC" in shown
    assert "5 % (98% interval of the paired difference 2.5 to 7.5 %), p = 2e-05" in shown
    assert "Gain, meter <b>-4 %" in shown
    assert "13 of 14 live issues of 14 days" in shown
    assert "Beside version 7" not in shown
    assert "Beside version 8" not in shown
    other = page.get(f"/default/{model.name}/versions/1")
    assert "Compared with production" not in other.text
