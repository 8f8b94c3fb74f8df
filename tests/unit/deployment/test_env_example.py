from __future__ import annotations

import re
from typing import Final

import pytest
from support import compose

from ai_hub.dev import mlflow_server
from ai_hub.dev.mlflow_server import LoginSettings
from ai_hub.dev.service import PortSettings
from ai_hub.settings import ServiceSettings, Settings

TEXT = compose.EXAMPLE.read_text()
#: Every variable of the file, set or commented out, with its value.
ENTRIES = dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", TEXT, re.MULTILINE))

SERVICES = compose.raw()["services"]
#: Settings that a container does without, and why.
NOT_IN_CONTAINERS: Final = {
    "AUDIT_LOG_PATH": "containers log to standard output, which Docker keeps",
    "AI_HUB_API_LOG_PATH": "containers log to standard output, which Docker keeps",
}
#: Who hears of promotions.
NOTIFY: Final = {
    name.upper(): "MLflow's server alone reads it" for name in Settings.model_fields if "notify_" in name
}
NOT_IN_API: Final = {
    **NOTIFY,
    "MLFLOW_BACKEND_STORE_URI": "MLflow's server and `init` alone read it",
    "TIMESCALE_DIRECT": "`ai-hub backup` and `ai-hub restore` alone read it",
    "PROMOTION_POLICY_PATH": "MLflow's server and `ai-hub policy` alone read it",
    "AI_HUB_DELEGATES": "MLflow's server alone reads it",
    "AI_HUB_MLFLOW_ASSISTANT": "MLflow's server alone reads it",
    "AI_HUB_API_URL": "clients read it",
    "AI_HUB_API_KEY": "clients read it",
    "AI_HUB_TENANT": "clients read it",
}
#: By class of settings: the containers that read it, and what each leaves out.
READERS: Final = [
    (Settings, "", "api", NOT_IN_API),
    (
        Settings,
        "",
        "cli",
        {
            "AI_HUB_DELEGATES": "MLflow's server alone reads it",
            "AI_HUB_MLFLOW_ASSISTANT": "MLflow's server alone reads it",
            **NOTIFY,
        },
    ),
    (ServiceSettings, "AI_HUB_API_", "api", {}),
    (LoginSettings, "MLFLOW_AUTH_", "mlflow", {}),
]


@pytest.mark.parametrize(("kind", "prefix", "service", "without"), READERS)
def test_every_setting__reaches_the_container_that_reads_it(
    kind: type[Settings], prefix: str, service: str, without: dict[str, str]
) -> None:
    names = {f"{prefix}{name.upper()}" for name in kind.model_fields} - NOT_IN_CONTAINERS.keys()
    assert names - SERVICES[service]["environment"].keys() == set(without)


def test_notifications__are_settings_of_mlflows_server() -> None:
    assert len(NOTIFY) == 6
    assert NOTIFY.keys() <= SERVICES["mlflow"]["environment"].keys()
    assert (
        NOTIFY.keys()
        <= mlflow_server.environment(dict.fromkeys([*NOTIFY, "MLFLOW_BACKEND_STORE_URI"], "x")).keys()
    )


def test_every_variable__is_used_by_a_container_or_has_a_reason() -> None:
    used = {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text())}
    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert ENTRIES.keys() - used - given == NOT_IN_CONTAINERS.keys()


def test_every_setting__is_described() -> None:
    names = {name.upper() for name in Settings.model_fields}
    names |= {f"AI_HUB_{name.upper()}" for name in PortSettings.model_fields}
    names |= {f"AI_HUB_API_{name.upper()}" for name in ServiceSettings.model_fields}
    assert names <= ENTRIES.keys()


def test_every_variable_of_the_compose_file__is_described() -> None:
    used = {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text())} - {None}
    assert used <= ENTRIES.keys()


def test_defaults_of_the_service__are_those_shown() -> None:
    for name, field in ServiceSettings.model_fields.items():
        if field.default is not None:
            assert ENTRIES[f"AI_HUB_API_{name.upper()}"] == str(field.default), name


def test_nothing_else__is_described() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= {f"AI_HUB_{name.upper()}" for name in PortSettings.model_fields}
    known |= {f"AI_HUB_API_{name.upper()}" for name in ServiceSettings.model_fields}
    known |= {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text())}
    for service in compose.raw()["services"].values():
        known |= {name for name, value in service.get("environment", {}).items() if value is None}
    assert ENTRIES.keys() <= known


def test_copy__is_enough_for_the_containers() -> None:
    assert compose.resolved(compose.example())["services"]


def test_copy__sets_passwords_only_and_marks_them_as_examples() -> None:
    values = compose.example()
    assert all(re.search(r"PASSWORD|ACCESS_KEY|SECRET_KEY", name) for name in values)
    assert all(value.startswith("example-change-me-") for value in values.values())
    assert len(set(values.values())) == len(values)


def test_defaults__are_those_of_the_compose_file() -> None:
    for match in compose.VARIABLE.finditer(compose.FILE.read_text()):
        # an empty one leaves it to the program
        if match["rule"] == "-" and match["text"] and match["name"] != "MLFLOW_PUBLIC_HOST":
            assert ENTRIES[match["name"]] == match["text"]
