"""What our server adds to MLflow's front page, and what it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.people_server import PeopleServer

ASSISTANT = "/ajax-api/3.0/mlflow/assistant/config"


def test_front_page__loads_our_script_before_its_own__also_when_the_browser_has_it(
    server: PeopleServer,
) -> None:
    session = server.session("vera")
    first = session.get("/")
    assert first.headers["Cache-Control"] == "no-cache"
    assert int(first.headers["Content-Length"]) == len(first.content)
    assert first.text.index("./lifecycle/mlflow.js") < first.text.index("static-files/static/js/main")
    assert 'data-assistant="off"' in first.text
    seen = {"If-None-Match": "*", "If-Modified-Since": "Mon, 30 Nov 2099 00:00:00 GMT", "Range": "bytes=0-9"}
    assert session.get("/", headers=seen).text == first.text
    script = session.get("/lifecycle/mlflow.js")
    assert script.headers["Content-Type"].startswith("text/javascript")


def test_nobody__gets_no_front_page(server: PeopleServer) -> None:
    answer = server.session(None).get("/")
    assert answer.status_code == 401
    assert "lifecycle" not in answer.text


@pytest.mark.parametrize("person", ["vera", "admin"])
def test_assistant_and_reports__are_off(server: PeopleServer, person: str) -> None:
    session = server.session(person)
    answer = session.get(ASSISTANT)
    assert (answer.status_code, "AI_HUB_MLFLOW_ASSISTANT" in answer.text) == (404, True)
    assert session.post(ASSISTANT.replace("config", "message"), json={}).status_code in {403, 404}
    reports = session.get("/ajax-api/3.0/mlflow/ui-telemetry").json()
    assert reports["disable_ui_telemetry"] is True
