"""The OpenAPI document is valid, its examples work, and the service does what it says under schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from support.city_works import TENANT

from ai_hub.api.app import create_app
from ai_hub.features import newest
from ai_hub.features.materialize import materialize
from ai_hub.features.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from support.city_works import CityWorks

ROOT = Path(__file__).resolve().parents[3]
METHODS = ("get", "put", "post", "patch", "delete", "head", "options", "trace")
#: Nobody waits here; the example of a promotion has brought the version to production.
BESIDE_THE_EXAMPLE = {"create_export": {"wait_s": 0}, "delete_model": {"force": True}}
OPENAPI = create_app().openapi()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in OPENAPI["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method, path, operation


def named(operation: dict[str, Any]) -> str:
    return str(operation["operationId"])


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def body_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {})
    return resolved(content["application/json"]["schema"]) if content else None


def example_of(parameter: dict[str, Any]) -> Any:
    """None: there is no example."""
    examples = parameter.get("examples") or parameter["schema"].get("examples") or []
    return (
        next(iter(examples.values()))["value"] if isinstance(examples, dict) else next(iter(examples), None)
    )


def test_document__is_valid_openapi_3_1() -> None:
    assert OPENAPI["openapi"].startswith("3.1")
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(OPENAPI)] == []


def test_operations__have_short_names_that_are_unique__and_summaries() -> None:
    names = [named(operation) for _, _, operation in operations()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert all(operation.get("summary") for _, _, operation in operations())


@pytest.mark.parametrize(
    ("path", "operation"), [(path, each) for _, path, each in operations()], ids=lambda each: str(each)[:40]
)
def test_operation__documents_the_errors_it_has(path: str, operation: dict[str, Any]) -> None:
    if "security" not in operation:
        assert path.startswith("/health") or path in {"/api/health", "/metrics"}
        return
    expected = {"401", "429", "503"}
    if "tenant_id" in json.dumps([operation.get("parameters"), body_schema(operation)]):
        expected |= {"403", "422"}
    if "requestBody" in operation:
        expected |= {"408", "413"}
    assert expected <= set(operation["responses"])


@pytest.mark.parametrize(
    "operation", [each for _, _, each in operations()], ids=[named(each) for *_, each in operations()]
)
def test_operation__has_an_example_of_all_it_needs(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["required"]:
            assert example_of(parameter) is not None, parameter["name"]
    if schema := body_schema(operation):
        assert schema["examples"]


def test_examples__taken_literally__work(city_works: CityWorks) -> None:
    # features of forecasts are in Redis alone, and the run may have crossed an hour since
    materialize(open_store(), newest.Scope([TENANT]))
    with city_works.client() as client:
        # what is deleted is deleted last
        order = sorted(operations(), key=lambda each: each[0] == "delete")
        answers = {named(each): send(client, *rest, each) for *rest, each in order}
    failed = {name: answer.text for name, answer in answers.items() if not answer.is_success}
    assert failed == {}


def send(client: httpx.Client, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
    query = {}
    for parameter in operation.get("parameters", []):
        value = example_of(parameter)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=":"))
        elif parameter["in"] == "query" and value is not None:
            query[parameter["name"]] = value
    query |= BESIDE_THE_EXAMPLE.get(named(operation), {})
    schema = body_schema(operation)
    body = schema["examples"][0] if schema else None
    return client.request(method, path, params=query, json=body)


@pytest.mark.long
def test_schemathesis__every_check__finds_nothing(city_works: CityWorks, tmp_path: Path) -> None:
    keys = {"city-works": city_works.key, "other-works": city_works.other_key}
    users = [
        {"name": name, "fixedHeaders": [{"name": "X-API-Key", "value": key}]} for name, key in keys.items()
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"auth": users}))
    count = len(list(operations()))
    if examples := os.environ.get("AI_HUB_FUZZ_EXAMPLES"):
        said = _run(city_works, tmp_path, examples)
    else:  # the boundaries of every field and sequences of requests take longer
        said = _run(city_works, tmp_path, "1", "--seed=1", "--phases=examples,fuzzing")
    assert f"Tested: {count}\n" in said
    for phase in ("Examples", "Fuzzing"):
        assert f"✅ {phase}\n" in said.replace("  ", " ")
    assert sum(map(int, re.findall(r"(\d+) generated", said))) > count


def _run(city_works: CityWorks, tmp_path: Path, examples: str, *arguments: str) -> str:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), f"--config-file={ROOT / 'schemathesis.toml'}"),
        *("run", f"{city_works.address}/openapi.json", f"--max-examples={examples}", "--no-color"),
        *("--report=json", f"--report-dir={tmp_path}", *arguments),
    ]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "AI_HUB_FUZZ_KEYS": str(tmp_path / "keys.json"),
            "AI_HUB_FUZZ_HOOKS": "support.openapi_hooks",
            "PYTHONPATH": str(ROOT / "tests"),
        },
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=int(os.environ.get("AI_HUB_FUZZ_TIMEOUT_S", "200")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
