from __future__ import annotations

import re

import httpx
from support.service_server import running_service

from ai_hub.settings import ServiceSettings, Settings


def test_docs__load_all_they_need_without_a_key_and_from_here_alone() -> None:
    with running_service(Settings(), ServiceSettings(auth="required")) as url:
        page = httpx.get(f"{url}/docs")
        needed = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)["']""", page.text)
        answers = {name: httpx.get(f"{url}{name}") for name in needed if name.startswith("/")}
        beside = httpx.get(f"{url}/docs/static/redoc.standalone.js")
    assert page.status_code == 200
    assert {"/openapi.json", "/docs/static/swagger-ui-bundle.js", "/docs/static/swagger-ui.css"} <= set(
        needed
    )
    assert [name for name in needed if not name.startswith("/")] == [], "nothing comes from elsewhere"
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert beside.status_code == 401
