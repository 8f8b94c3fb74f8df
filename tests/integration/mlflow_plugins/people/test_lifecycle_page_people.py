"""The page at `/lifecycle` on a server with login: who sees what, and who may move what."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from support.html_pages import Parsed
from support.people_server import ADMIN, password

from ai_hub import registry
from ai_hub.registry import users
from mlflow_plugins.artifacts.s3 import s3_client
from mlflow_plugins.web.lifecycle import card

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Tenant
    from support.people_server import PeopleServer, Session

MODEL = "demand"
#: Of an image.
HOSTILE_NAME = "\"onerror='alert(1)' & 100%?#.png"
PAGE = f"/lifecycle/acme/{MODEL}"


def _post(acme: Tenant, person: str, version: int, action: str, **fields: str) -> tuple[int, str]:
    session = acme.server.session(person)
    seen = max((int(form.get("seen", 0)) for form in Parsed.of(session.get(PAGE)).forms), default=0)
    data = {"action": action, "version": str(version), "seen": str(seen or 10**9), "reason": "as agreed"}
    answer = session.post(PAGE, data=data | fields)
    return answer.status_code, Parsed.of(answer).text


def _buttons(acme: Tenant, person: str) -> set[str]:
    forms = Parsed.of(acme.server.session(person).get(PAGE)).forms
    return {action for form in forms for action in form.get("actions", "").split()}


@pytest.mark.parametrize(
    ("person", "visible"),
    [
        ("vera", ["acme"]),
        ("anna", ["acme"]),
        ("bert", ["beta"]),
        ("noor", []),
        (ADMIN, ["acme", "beta", "default"]),
    ],
)
def test_tenants__are_those_the_person_has_a_role_in(
    server: PeopleServer, acme: Tenant, beta: Tenant, person: str, visible: list[str]
) -> None:
    answer = server.session(person).get("/lifecycle")
    assert re.findall(r'href="/lifecycle/([a-z]+)"', answer.text) == visible
    for tenant in (acme, beta):
        shown = server.session(person).get(f"/lifecycle/{tenant.name}")
        assert shown.status_code == (200 if tenant.name in visible else 404)


@pytest.mark.parametrize("path", ["", f"/{MODEL}", f"/{MODEL}/plot.svg?metric=mae", "/other"])
def test_another_tenant__is_no_tenant(server: PeopleServer, acme: Tenant, beta: Tenant, path: str) -> None:
    del beta
    for person in ("bert", "noor"):
        there = server.session(person).get(f"/lifecycle/acme{path}")
        nowhere = server.session(person).get(f"/lifecycle/nowhere{path}")
        assert there.status_code == nowhere.status_code == 404
        assert there.text.replace("acme", "nowhere") == nowhere.text
        assert acme.mark not in there.text


def test_moves__in_another_tenant__are_not_found(server: PeopleServer, acme: Tenant, beta: Tenant) -> None:
    del beta
    version = acme.versions[0]
    acme.put(version, "Staging")
    data = {"action": "promote", "version": str(version), "seen": str(10**9), "reason": "as agreed"}
    assert server.session("bert").post(PAGE, data=data).status_code == 404
    assert server.session("bert", "acme").post(PAGE, data=data).status_code in {403, 404}
    assert acme.stage(version) == "Staging"


@pytest.mark.parametrize("path", ["/lifecycle", "/lifecycle/acme", PAGE, f"{PAGE}/plot.svg?metric=mae"])
def test_nobody__sees_nothing(server: PeopleServer, acme: Tenant, path: str) -> None:
    answer = server.session(None).get(path)
    assert answer.status_code == 401
    assert "Basic" in answer.headers["WWW-Authenticate"]
    assert acme.mark not in answer.text


def test_viewer__has_no_buttons__and_is_refused_by_hand(acme: Tenant, tmp_path: Path) -> None:
    waiting, archived = (acme.register("emil", tmp_path / str(number)) for number in range(2))
    acme.put(archived, "Archived")
    assert _buttons(acme, "vera") == set()
    shown = Parsed.of(acme.server.session("vera").get(PAGE)).text
    assert "You may look at the models of acme, but not move their versions." in shown
    assert f"Version {waiting} (" in shown
    for version, action in (
        (waiting, "promote"),
        (waiting, "reject"),
        (archived, "restore"),
        (archived, "rollback"),
    ):
        status, text = _post(acme, "vera", version, action)
        assert status == 403
        assert "Refused. Nothing has changed." in text
        assert f"You may not update model {MODEL}." in text
    assert (acme.stage(waiting), acme.stage(archived)) == ("Staging", "Archived")


@pytest.fixture
def paul(server: PeopleServer, acme: Tenant) -> Iterator[Session]:
    """Somebody who may read one of the tenant's two models."""
    admin, roles = server.session(ADMIN, acme.name), "/api/3.0/mlflow/roles"
    models = "/api/2.0/mlflow/registered-models"
    admin.post(f"{models}/create", json={"name": "of-others"})
    with server.person(ADMIN):
        users.add("paul", password("paul"))
    wish: dict[str, object] = {"workspace": acme.name, "name": "demand-only"}
    role = {"role_id": admin.post(f"{roles}/create", json=wish).json()["role"]["id"]}
    for kind, pattern, permission in (("workspace", "*", "USE"), ("registered_model", MODEL, "READ")):
        wish = {"resource_type": kind, "resource_pattern": pattern, "permission": permission}
        assert admin.post(f"{roles}/permissions/add", json=role | wish).status_code == 200
    assert admin.post(f"{roles}/assign", json=role | {"username": "paul"}).status_code == 200
    yield server.session("paul")
    # the server is the whole run's
    with server.person(ADMIN):
        users.remove("paul")
    assert admin.delete(f"{roles}/delete", json=role).status_code == 200
    assert admin.delete(f"{models}/delete", json={"name": "of-others"}).status_code == 200


def test_grant_of_one_model__shows_that_one(acme: Tenant, paul: Session) -> None:
    assert re.findall(r'href="/lifecycle/acme/([a-z-]+)"', paul.get("/lifecycle/acme").text) == [MODEL]
    assert paul.get(PAGE).status_code == 200
    assert _buttons(acme, "paul") == set()
    # whether there is such a model is nobody's business either
    of_others, of_nobody = (paul.get(f"/lifecycle/acme/of-{whom}") for whom in ("others", "nobody"))
    assert of_others.status_code == of_nobody.status_code == 403
    assert of_others.text.replace("of-others", "of-nobody") == of_nobody.text


def test_engineer__rejects_and_restores__but_does_not_promote(acme: Tenant, tmp_path: Path) -> None:
    version = acme.register("emil", tmp_path / "model")
    other = acme.register("emil", tmp_path / "other")
    acme.put(other, "Archived")
    assert _buttons(acme, "emil") == {"reject", "restore"}
    status, text = _post(acme, "emil", version, "promote")
    assert status == 403
    assert "Only an approver of tenant acme may move a version into or out of Production. Ask anna." in text
    # a form cannot name somebody else
    assert _post(acme, "emil", version, "reject", user="anna")[0] == 200
    status, text = _post(acme, "emil", version, "restore")
    assert status == 200
    assert "Archived → Staging" in text
    assert "by emil." in text
    assert acme.stage(version) == "Staging"


def test_approver__promotes_and_rolls_back(acme: Tenant, tmp_path: Path) -> None:
    first, second = (acme.register("emil", tmp_path / str(number)) for number in range(2))
    for version in (first, second):
        status, text = _post(acme, "anna", version, "promote", reason=f"better on day {version}")
        assert (status, acme.stage(version)) == (200, "Production"), text
    assert _buttons(acme, "anna") >= {"rollback", "restore"}
    status, text = _post(acme, "anna", first, "rollback", reason="drift")
    assert status == 200
    assert acme.stage(second) == "Archived"
    rows = acme.session("anna").get(f"/ai-hub/api/models/{MODEL}/transitions").json()["transitions"]
    newest = next(row for row in rows if row["version"] == first)
    assert (newest["actor"], newest["actor_source"], newest["reason"]) == ("anna", "authenticated", "drift")


def test_mlflows_own_refusal__says_what_to_do(acme: Tenant) -> None:
    answer = acme.session("vera").post(
        "/api/2.0/mlflow/registered-models/alias",
        json={"name": MODEL, "alias": "production", "version": str(acme.versions[0])},
    )
    assert answer.status_code == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert "your role in this tenant does not include that" in answer.json()["message"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_form__of_another_site__is_refused(acme: Tenant, headers: dict[str, str], tmp_path: Path) -> None:
    version = acme.register("emil", tmp_path / "model")
    data = {"action": "promote", "version": str(version), "seen": str(10**9), "reason": "as agreed"}
    answer = acme.server.session("anna").post(PAGE, data=data, headers=headers)
    assert answer.status_code == 403
    assert "a page of another site" in answer.text
    assert acme.stage(version) == "Staging"


def test_metrics__are_those_registered__not_what_the_run_says_now(acme: Tenant, tmp_path: Path) -> None:
    metric = f"mae-{acme.mark}"
    acme.put(acme.register("emil", tmp_path / "first"), "Production")
    version = acme.register("emil", tmp_path / "second")
    with acme.server.person("emil"), registry.tenant_scope(acme.name):
        MlflowClient().log_metric(acme.run, metric, 0.001)
    shown = acme.server.session("vera").get(PAGE).text
    assert "0.001" not in shown
    both = r'<td class="number">1.5</td>\s+' * 2
    row = rf'<th scope="row">{metric}</th>\s+{both}<td>equal</td>'
    assert re.search(row, shown.split(f'id="version-{version}"')[1])


def test_plot__shows_every_version(acme: Tenant) -> None:
    metric = f"mae-{acme.mark}"
    answer = acme.server.session("vera").get(f"{PAGE}/plot.svg", params={"metric": metric})
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert metric in answer.text
    assert "v1.0.0" in answer.text
    assert "<script" not in answer.text
    assert acme.server.session("vera").get(f"{PAGE}/plot.svg", params={"metric": "no"}).status_code == 404


@pytest.fixture
def plotted(acme: Tenant, tmp_path: Path) -> Iterator[tuple[int, dict[str, bytes]]]:
    """A version with images of every kind in its run and its logged model; those that can be shown."""
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2], [2, 1])
    (tmp_path / "plots").mkdir()
    figure.savefig(tmp_path / "plots/error_by-hour.png")
    picture = (tmp_path / "plots/error_by-hour.png").read_bytes()
    files = {
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "page.html": b"<script>alert(1)</script>",
        "no_picture.png": b"<script>alert(1)</script>",
        "no_end.png": picture[:18],
        "vast.png": picture[:16] + (10**5).to_bytes(4) * 2 + picture[24:],
        "heavy.png": picture + bytes(card.LARGEST_IMAGE),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with acme.server.person("emil"), registry.tenant_scope("acme"):
        client = MlflowClient()
        run = client.create_run(acme.experiment).info
        client.log_artifacts(run.run_id, str(tmp_path))
        # MLflow's client cannot send such a name
        key = f"acme/.runs/{acme.experiment}/{run.run_id}/artifacts/{HOSTILE_NAME}"
        s3_client().put_object(Bucket="ml-models", Key=key, Body=picture)
        logged = client.create_logged_model(acme.experiment, name="plotted", source_run_id=run.run_id)
        (tmp_path / "model").mkdir()
        (tmp_path / "model/MLmodel").write_text("flavors: {lightgbm: {}}\n")
        (tmp_path / "model/importance.png").write_bytes(picture)
        client.log_model_artifacts(logged.model_id, str(tmp_path / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        source = f"models:/{logged.model_id}"
        made = client.create_model_version(MODEL, source, run.run_id, model_id=logged.model_id)
    shown = ("run?plots/error_by-hour.png", f"run?{HOSTILE_NAME}", "logged_model?importance.png")
    yield int(made.version), dict.fromkeys(shown, picture)
    acme.put(int(made.version), "Archived")


def _images(page: str) -> dict[str, tuple[str, str]]:
    """Address and text alternative of the plots of a card, by what they are of."""
    found = re.findall(r'<img src="([^"]+/images/[^"]+)" alt="([^"]+)"', page)
    addresses = [(unescape(address), unescape(text)) for address, text in found]
    return {
        f"{urlsplit(address).path.rpartition('/')[2]}?{parse_qs(urlsplit(address).query)['path'][0]}": (
            address,
            text,
        )
        for address, text in addresses
    }


def test_plots__stand_in_the_card__and_nothing_that_could_run(
    acme: Tenant, plotted: tuple[int, dict[str, bytes]]
) -> None:
    version, expected = plotted
    session = acme.server.session("vera")
    page = session.get(f"{PAGE}/versions/{version}")
    assert "svg" not in page.text.split('id="card"')[1].replace("plot.svg", "")
    assert "Not shown: too large: heavy.png." in Parsed.of(page).text
    shown = _images(page.text)
    assert shown["run?plots/error_by-hour.png"][1] == "error by hour"
    answers = {name: session.get(address) for name, (address, _) in shown.items()}
    # what is no picture is a broken one: the list knows names and sizes alone
    broken = {f"run?{name}" for name in ("no_picture.png", "no_end.png", "vast.png")}
    assert shown.keys() == expected.keys() | broken
    for name, answer in answers.items():
        if name in broken:
            assert answer.status_code == 404
            continue
        assert answer.content == expected[name]
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "sandbox" in answer.headers["Content-Security-Policy"]
    place = f"{PAGE}/versions/{version}/images"
    for path in ("drawing.svg", "page.html", "heavy.png", "../plots/error_by-hour.png", "/etc/x.png", ""):
        assert session.get(f"{place}/run", params={"path": path}).status_code == 404
    for origin in ("model", "logged_model", "..%2Frun"):
        answer = session.get(f"{place}/{origin}", params={"path": "plots/error_by-hour.png"})
        assert answer.status_code == 404
    for person, tenant in (("bert", "acme"), ("bert", "beta"), ("noor", "acme"), (None, "acme")):
        other = acme.server.session(person).get(
            f"/lifecycle/{tenant}/{MODEL}/versions/{version}/images/run",
            params={"path": "plots/error_by-hour.png"},
        )
        assert other.status_code in {401, 404}


def test_plots__of_a_logged_model_whose_run_is_gone__are_found(
    acme: Tenant, plotted: tuple[int, dict[str, bytes]]
) -> None:
    with acme.server.person(ADMIN), registry.tenant_scope("acme"):
        source = str(MlflowClient().get_model_version(MODEL, str(plotted[0])).source)
        places = list(card._addresses("0" * 32, source.removeprefix("models:/")))
    assert [origin for origin, *_ in places] == ["logged_model"]


def test_plots__of_an_experiment_that_is_denied__are_not_shown(
    acme: Tenant, plotted: tuple[int, dict[str, bytes]]
) -> None:
    version, expected = plotted
    session = acme.server.session("vera")
    card = f"{PAGE}/versions/{version}"
    address, _ = _images(session.get(card).text)["run?plots/error_by-hour.png"]
    admin, roles = acme.server.session(ADMIN), "/api/3.0/mlflow/roles"
    role = admin.post(f"{roles}/create", json={"workspace": "acme", "name": "denied"}).json()["role"]["id"]
    denial = {"resource_type": "experiment", "resource_pattern": acme.experiment, "permission": "DENY"}
    try:
        added = admin.post(f"{roles}/permissions/add", json={"role_id": role, **denial})
        assert added.status_code == 200, added.text
        assert admin.post(f"{roles}/assign", json={"username": "vera", "role_id": role}).status_code == 200
        refused = session.get(card)
        assert (refused.status_code, _images(refused.text)) == (200, {})
        assert session.get(address).status_code == 404
    finally:
        assert admin.delete(f"{roles}/delete", json={"role_id": role}).status_code == 200
    assert expected.keys() <= _images(session.get(card).text).keys()


def test_metrics__that_were_tampered_with__are_not_shown(acme: Tenant, tmp_path: Path) -> None:
    version = acme.register("emil", tmp_path / "model")
    with acme.server.person("emil"), registry.tenant_scope(acme.name):
        number = MlflowClient().get_model_version(MODEL, str(version)).tags["semantic_version"]
    key = f"{acme.name}/{MODEL}/{number}/metrics.json"
    s3_client().put_object(Bucket="ml-models", Key=key, Body=b'{"mae": 0.0001}')
    answer = acme.server.session("vera").get(PAGE)
    assert answer.status_code == 200
    candidate = answer.text.split(f'id="version-{version}"')[1].split("</article>")[0]
    assert "Its metrics cannot be shown." in candidate
    assert "metrics.json" in candidate
    assert "0.0001" not in candidate
    acme.put(version, "Archived")


def test_removed_tenants__are_shown_to_the_administrator_alone(server: PeopleServer) -> None:
    with server.person(ADMIN):
        registry.ensure_tenant("gone")
    session = server.session(ADMIN)
    query = {"mode": "CASCADE", "reason": "moved to another city"}
    assert session.delete("/api/3.0/mlflow/workspaces/gone", params=query).status_code < 300
    shown = Parsed.of(session.get("/lifecycle")).text.split("Removed tenants")[1]
    assert re.search(r"gone\s+.* UTC\s+removed\s+admin\s+moved to another city", shown)
    for person in ("anna", "noor"):
        assert "gone" not in server.session(person).get("/lifecycle").text
