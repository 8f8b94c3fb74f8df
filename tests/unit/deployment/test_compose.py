from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer.main
from support import compose

from ai_hub.cli.main import app
from ai_hub.dev import mlflow_server
from ai_hub.settings import Settings

PASSWORDS = {
    "POSTGRES_PASSWORD": "pw1",
    "MLFLOW_DB_PASSWORD": "pw2",
    "SERVICE_DB_PASSWORD": "pw8",
    "REDIS_PASSWORD": "pw3",
    "MINIO_ACCESS_KEY": "key4",
    "MINIO_SECRET_KEY": "pw5",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "pw6",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "pw7",
    "GRAFANA_ADMIN_PASSWORD": "pw9",
}
FILE = compose.resolved(PASSWORDS)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("ai-hub:")}
RUNS_ONCE = {"init", "migrate", "apply", "cli"}
TARGETS = {name: [int(port.rsplit(":", 1)[1]) for port in s.get("ports", [])] for name, s in SERVICES.items()}


def parse(program: str, *arguments: str) -> str:
    """Parse a command line as the program does, without running it; returns the names of its commands."""
    # MLflow and Feast take seconds to import, so only these tests do
    if program == "ai-hub":
        command: Any = typer.main.get_command(app)
    elif program == "mlflow":
        command = importlib.import_module("mlflow.cli").cli
    elif program == "feast":
        command = importlib.import_module("feast.cli.cli").cli
    else:
        pytest.fail(f"{program} is none of our programs")
    names, words, context = [program], list(arguments), None
    while True:
        context = command.make_context(names[-1], words, parent=context)
        words = [*getattr(context, "_protected_args", ()), *context.args]
        if not words:
            return " ".join(names)
        name, command, words = command.resolve_command(context, words)
        names.append(name)


def test_file__meets_the_compose_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", compose.FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_file__names_only_what_it_defines() -> None:
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            assert other in SERVICES, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in FILE["volumes"] or (compose.ROOT / source).is_dir(), name
        for config in service.get("configs", []):
            assert config["source"] in FILE["configs"], name
    used = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", [])}
    assert {source for source in used if not source.startswith("./")} == set(FILE["volumes"])


def test_dependencies__wait_for_what_the_other_service_can_reach() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in RUNS_ONCE else "service_healthy"
            assert condition == {"condition": expected}, f"{name} on {other}"


def test_servers__are_healthy_restart_and_publish_on_loopback_only() -> None:
    for name in SERVICES.keys() - RUNS_ONCE:
        service = SERVICES[name]
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert service["ports"], name
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_health_checks__ask_the_port_that_is_published() -> None:
    for name, service in SERVICES.items():
        if "healthcheck" not in service:
            continue
        asked = re.findall(r"(?:127\.0\.0\.1:|--port=|-p )(\d+)", " ".join(service["healthcheck"]["test"]))
        assert asked == [str(TARGETS[name][0])], name


def test_servers__listen_on_the_port_that_is_published() -> None:
    for name in ("mlflow", "feature-server", "api"):
        assert f"--port={TARGETS[name][0]}" in SERVICES[name]["command"]
        assert "--host=0.0.0.0" in SERVICES[name]["command"]
    metrics = {f"--metrics-port={TARGETS['materializer'][0]}", "--metrics-host=0.0.0.0"}
    assert metrics <= set(SERVICES["materializer"]["command"])
    assert [f":{port}" for port in TARGETS["minio"]] == SERVICES["minio"]["command"][3::2]
    assert f"port {TARGETS['redis'][0]}\n" in FILE["configs"]["valkey.conf"]["content"]


def test_addresses__lead_to_a_service_and_its_port() -> None:
    found = 0
    for name in OURS:
        for variable, value in SERVICES[name]["environment"].items():
            if "://" not in value or variable == "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS":
                continue
            parts = urlsplit(value)
            assert parts.port in TARGETS[str(parts.hostname)], f"{name}: {variable}"
            found += 1
    assert found > 10


def test_rest_service__is_at_the_port_its_users_know() -> None:
    assert TARGETS["api"] == [8003]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("init", "ai-hub provision"),
        ("migrate", "ai-hub migrate"),
        ("apply", "feast apply"),
        ("mlflow", "mlflow server"),
        ("feature-server", "ai-hub feature-server"),
        ("materializer", "ai-hub materialize"),
        ("api", "ai-hub serve"),
    ],
)
def test_command__is_one_its_program_knows(name: str, expected: str) -> None:
    assert parse(*SERVICES[name]["command"]) == expected


def test_commands__are_all_tested_above() -> None:
    assert {"init", "migrate", "apply", "mlflow", "feature-server", "materializer", "api", "cli"} == OURS
    assert SERVICES["cli"]["command"] == ["ai-hub", "--help"]


def test_parse__refuses_what_programs_do_not_know() -> None:
    with pytest.raises(Exception, match="No such command 'prepare'"):
        parse("ai-hub", "prepare")
    with pytest.raises(Exception, match="No such option"):
        parse("mlflow", "server", "--application=ai-hub")


#: MLflow's server alone reads them.
_NOTIFY = {name.upper() for name in Settings.model_fields if name.startswith("notify_")}


def test_mlflow__runs_as_in_the_embedded_stack() -> None:
    service = SERVICES["mlflow"]
    own = ("MLFLOW_BACKEND_STORE_URI", "FEAST_REGISTRY_URI", "PROMOTION_POLICY_PATH")
    given = {name: service["environment"][name] for name in own}
    assert service["command"] == [
        "mlflow",
        *mlflow_server.arguments(
            host="0.0.0.0",  # noqa: S104  # in a container
            port=5000,
            workers=2,
            bucket="ml-models",
            login=True,
        ),
    ]
    store = {
        name: SERVICES["init"]["environment"][name]
        for name in SERVICES["init"]["environment"]
        if name.startswith(("MINIO_", "MODEL_"))
    }
    wanted = mlflow_server.environment(given | store)
    assert wanted.items() <= service["environment"].items()
    extra = service["environment"].keys() - wanted.keys()
    assert extra == {
        *("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"),
        *("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD", mlflow_server.SECRET_KEY),
        *("AI_HUB_DELEGATES", "AI_HUB_MLFLOW_ASSISTANT"),
        *(f"OPENLINEAGE_{name}" for name in ("URL", "ENDPOINT", "API_KEY", "NAMESPACE", "DISABLED")),
        *_NOTIFY,
    }
    assert (
        service["environment"]["AI_HUB_DELEGATES"]
        == SERVICES["api"]["environment"]["MLFLOW_TRACKING_USERNAME"]
    )
    (config,) = service["configs"]
    assert config["target"] == service["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    database = service["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert FILE["configs"][config["source"]]["content"] == mlflow_server.login_configuration(database)


@pytest.mark.parametrize(
    ("variables", "own"),
    [
        ({"OPENLINEAGE__TRANSPORT": '{"type": "noop"}'}, {}),
        ({}, {"OPENLINEAGE__TRANSPORT__TYPE": "noop"}),
    ],
    ids=["whole, in .env", "by parts, in a Compose file of one's own"],
)
def test_lineage__goes_where_its_transport_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], own: dict[str, str]
) -> None:
    environment = compose.resolved(PASSWORDS | variables)["services"]["cli"]["environment"]
    for name, value in ({k: v for k, v in environment.items() if k.startswith("OPENLINEAGE")} | own).items():
        monkeypatch.setenv(name, value)
    client = importlib.import_module("openlineage.client").OpenLineageClient()
    assert client.transport.kind == "noop"


@pytest.mark.parametrize("name", ["apply", "feature-server", "materializer", "cli"])
def test_feast__gets_what_follows_from_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[name]["environment"]
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    for variable, value in SERVICES["cli"]["environment"].items():
        monkeypatch.setenv(variable, value)
    derived = Settings(_env_file=None).environment()
    named = re.findall(r"\$\{(\w+)\}", (compose.ROOT / "feature_repo/feature_store.yaml").read_text())
    assert named
    assert {variable: environment[variable] for variable in named} == {
        variable: derived[variable] for variable in named
    }
    assert environment["FEATURE_REPO_DIR_ENV_VAR"] == "/app/feature_repo"


def test_cli__has_every_setting_of_a_client() -> None:
    expected = {name.upper() for name in Settings.model_fields} - {
        "MLFLOW_BACKEND_STORE_URI",
        "SERVICE_TIMESCALE_DSN",
        "AUDIT_LOG_PATH",
        "AI_HUB_DELEGATES",
        *_NOTIFY,
        "AI_HUB_MLFLOW_ASSISTANT",
    }
    assert expected <= SERVICES["cli"]["environment"].keys()


def test_defaults__are_those_of_the_settings() -> None:
    environment = SERVICES["cli"]["environment"]
    for name in (
        "model_storage_bucket",
        "feature_cache_ttl",
        "export_storage_path",
        "export_jobs_per_tenant",
    ):
        assert environment[name.upper()] == str(Settings.model_fields[name].default)


@pytest.mark.parametrize("name", sorted(PASSWORDS))
def test_password__has_no_default(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        compose.resolved({key: value for key, value in PASSWORDS.items() if key != name})


def test_passwords__are_literal_nowhere() -> None:
    for text in compose.strings(compose.raw()):
        without = compose.VARIABLE.sub("", text)
        assert not re.search(r"://[^/@\s]*:[^/@\s]+@", without), text
    for name, service in compose.raw()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY|AUTH(?!_CONFIG_PATH)|TOKEN", variable):
                assert compose.VARIABLE.fullmatch(value), f"{name}: {variable}"


def test_passwords__are_on_no_command_line() -> None:
    for name, service in SERVICES.items():
        words = " ".join([*service.get("command", []), *service.get("healthcheck", {}).get("test", [])])
        assert not [secret for secret in PASSWORDS.values() if secret in words], name


def test_mlflow__holds_no_key_to_the_meter_data() -> None:
    text = json.dumps(SERVICES["mlflow"])
    assert PASSWORDS["POSTGRES_PASSWORD"] not in text
    assert PASSWORDS["REDIS_PASSWORD"] not in text


def test_images__are_pinned_by_tag() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT", tag), f"{name}: {service['image']}"
