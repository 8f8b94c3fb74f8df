"""How servers are started: nothing secret on a command line, nothing reachable from outside."""

from __future__ import annotations

import configparser
import json
from typing import TYPE_CHECKING

import pytest

from ai_hub.dev import mlflow_server, node
from ai_hub.dev.mlflow_server import login_configuration
from ai_hub.dev.service import Site
from ai_hub.dev.services import SERVICES, select
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://user:hush@db/mlflow",
    "MODEL_STORAGE_BUCKET": "ml-models",
    "MINIO_ENDPOINT_URL": "http://127.0.0.1:9000",
    "MINIO_ACCESS_KEY": "hush",
    "MINIO_SECRET_KEY": "hush",
}


@pytest.mark.parametrize("name", SERVICES)
def test_command__holds_no_secret_and_only_loopback(name: str, tmp_path: Path) -> None:
    service = SERVICES[name]
    ports = dict.fromkeys(service.extra_ports, 2)
    site = Site(tmp_path, 1, ports, dict.fromkeys(service.secrets, "hush"))
    service.prepare(site, lambda _: None)
    command = " ".join(service.command(site, SETTINGS))
    assert "hush" not in command
    assert "0.0.0.0" not in command  # noqa: S104  # what must not be there


def test_mlflow_environment__registry_is_the_lifecycle_plugin_on_the_same_database() -> None:
    environment = mlflow_server.environment(SETTINGS)
    assert environment["MLFLOW_REGISTRY_STORE_URI"] == f"lifecycle+{SETTINGS['MLFLOW_BACKEND_STORE_URI']}"
    assert environment["MINIO_SECRET_KEY"] == "hush"


def test_mlflow__asks_for_a_login__when_its_administrator_has_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    service = SERVICES["mlflow"]
    site = Site(tmp_path, 1, {}, dict.fromkeys(service.secrets, "hush"))
    assert "--app-name=ai-hub" in service.command(site, SETTINGS)
    assert not {
        name for name in service.environment(site, SETTINGS) if "AUTH" in name or "SECRET_KEY" in name
    } - {"MINIO_SECRET_KEY"}
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "hush hush hush")
    assert "--app-name=ai-hub-auth" in service.command(site, SETTINGS)
    environment = service.environment(site, SETTINGS)
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == "hush hush hush"
    assert environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] == "hush"
    login = configparser.ConfigParser()
    login.read(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert login["mlflow"]["database_uri"] == f"sqlite:///{tmp_path / 'login.db'}"
    assert login["mlflow"]["default_permission"] == "NO_PERMISSIONS"


def test_login_configuration__takes_any_password_of_the_database() -> None:
    url = "postgresql://user:p%40ss%25%(x)s@db/mlflow"
    login = configparser.ConfigParser()
    login.read_string(login_configuration(url))
    assert login["mlflow"]["database_uri"] == url


def test_lock_file__names_no_registry_and_pins_every_package() -> None:
    lock = json.loads((node.SOURCES / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for entry in packages.values():
        assert "resolved" not in entry
        assert entry["integrity"].startswith("sha512-")


def test_select__unknown_name__lists_the_known() -> None:
    with pytest.raises(BadInputError, match="timescaledb, redis, s3, mlflow, api"):
        select(["postgres"])


def test_select__no_name__all_in_reading_order() -> None:
    assert [service.name for service in select([])] == ["timescaledb", "redis", "s3", "mlflow", "api"]
