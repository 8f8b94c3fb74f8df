"""`ai-hub tenants`: a tenant ends wherever it has something; the next of that name begins with nothing."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from support.energy import Energy  # of a dataclass
from support.export_worker import complete
from support.feature_tables import register, write
from support.registry_tenant import MODEL, Tenant, new_tenant
from support.service_server import running_service

from ai_hub import cli, registry
from ai_hub.access import api_keys, sql_logins
from ai_hub.access.principal import SCOPES
from ai_hub.db import connect, declared
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.exports.export import Request
from ai_hub.exports.service import submit
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.settings import Settings
from ai_hub.tenants import removal, stores
from mlflow_plugins.users.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = timedelta(hours=1)


@dataclass
class Known:
    """A tenant with something everywhere."""

    registered: Tenant
    key: str
    settings: Settings
    energy: Energy

    @property
    def name(self) -> str:
        return self.registered.name

    def counts(self) -> dict[str, int]:
        return removal.contents(self.settings, self.name).counts

    def features(self, service: str, key: str) -> requests.Response:
        return requests.post(
            f"{service}/ai/features/get",
            headers={"X-API-Key": key},
            json={"tenant_id": self.name, "asset_id": "meter", "feature_set": "forecast_basic"},
            timeout=60,
        )


@pytest.fixture
def service(known: Known) -> Iterator[str]:
    with running_service(known.settings) as address:
        yield address


@pytest.fixture
def known(energy: Energy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("EXPORT_STORAGE_PATH", str(tmp_path / "exports"))
    monkeypatch.setenv("AI_HUB_API_KEYS_REFRESH_S", "0.2")
    settings = Settings()
    tenant = new_tenant(energy.environment["MLFLOW_TRACKING_URI"])
    tenant.register(tmp_path / "model")
    return Known(tenant, fill(energy, settings, tenant.name), settings, energy)


def fill(energy: Energy, settings: Settings, tenant: str) -> str:
    """Readings, features, an export, rows in Redis, and a key, which is returned."""
    now = energy.now
    with connect(autocommit=True) as connection:
        register(connection, tenant, "meter", "UTC")
        write(connection, tenant, "meter", {now - step * HOUR: float(step) for step in range(1, 100)})
    refresh()
    materialize(energy.store, Scope([tenant]))
    request = Request(tenant=tenant, feature_set="forecast_basic", start=now - 48 * HOUR, end=now)
    job = submit(settings, request, key=None)
    complete(settings, job)
    _, text = api_keys.create("forecasts", [tenant], SCOPES[Role.ENGINEER], created_by="test")
    return str(text)


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["ai-hub", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_tables__are_all_that_have_tenants(database: str) -> None:
    with connect(database) as connection:
        actual = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND attname = 'tenant_id' AND NOT attisdropped"
            " AND relname NOT IN (SELECT relation FROM served_relations)"
        )
        known = {"removals", "sql_logins", *stores.TABLES, *declared.tables(connection)}
        assert {name for (name,) in actual} <= known


def test_remove__shows_first__then_everything_goes(
    known: Known, service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = known.energy.main
    others = removal.contents(known.settings, other).counts
    assert known.features(service, known.key).status_code == 200
    before = known.counts()
    for kind in (
        *(
            "models",
            "versions",
            "trail",
            "experiments",
            "files",
            "bytes",
            "timeseries_data",
            "ai_features_stored",
        ),
        *("assets", "asset_spans", "jobs", "api_keys", "export_files", "redis_keys"),
    ):
        assert before[kind] > 0, kind

    status, out, _ = run(capsys, monkeypatch, "tenants", "remove", known.name, "--reason", "contract ended")
    assert (status, "99 timeseries data" in out, "Add --yes" in out) == (0, True, True)
    assert known.counts() == before
    status, out, err = run(
        capsys, monkeypatch, "tenants", "remove", known.name, "--reason", "contract ended", "--yes"
    )
    assert (status, f"{known.name} is gone" in out) == (0, True), err

    # the next of that name
    status, out, err = run(capsys, monkeypatch, "tenants", "create", known.name)
    assert status == 0, err
    assert known.counts() == {}
    refused = known.features(service, known.key)
    assert refused.status_code == 401
    _, key = api_keys.create("forecasts", [known.name], SCOPES[Role.ENGINEER], created_by="test")
    fresh = known.features(service, str(key))
    assert fresh.status_code == 404, fresh.text
    exports = requests.get(f"{service}/ai/features/exports", headers={"X-API-Key": str(key)}, timeout=60)
    assert exports.json()["total"] == 0
    models = requests.get(f"{service}/ai/models/", headers={"X-API-Key": str(key)}, timeout=60)
    assert models.json()["total"] == 0
    assert registry.history(known.name, MODEL) == []
    assert not Path(known.settings.export_storage_path, known.name).exists()
    aggregates = "SELECT count(*) FROM hourly_features WHERE tenant_id = %s"
    with connect() as connection:
        assert connection.execute(aggregates.encode(), [known.name]).fetchone() == (0,)
        log = connection.execute(
            "SELECT kind, step, reason FROM removals WHERE tenant_id = %s ORDER BY removal_id", [known.name]
        ).fetchall()
    assert log == [("tenant", "started", "contract ended"), ("tenant", "finished", "contract ended")]
    assert removal.contents(known.settings, other).counts == others


def test_remove__with_something_in_production__needs_force(
    known: Known, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known.registered.stage(1, "Production").status_code == 200
    before = known.counts()
    status, _, err = run(capsys, monkeypatch, "tenants", "remove", known.name, "--reason", "why", "--yes")
    assert (status, f"{MODEL} version 1" in err, "--force" in err) == (1, True, True)
    assert known.counts() == before
    assert run(capsys, monkeypatch, "tenants", "remove", known.name, "--reason", " ", "--yes")[0] == 2
    status, out, _ = run(
        capsys,
        monkeypatch,
        *("tenants", "remove", known.name, "--reason", "why", "--yes", "--force", "--json"),
    )
    assert (status, json.loads(out)["removed"]) == (0, True)
    status, _, err = run(capsys, monkeypatch, "tenants", "remove", known.name, "--reason", "why", "--yes")
    assert (status, "no tenant" in err) == (2, True)


def test_remove__keep__shuts_out_and_reserves_the_name(known: Known, service: str) -> None:
    before = known.counts()
    removal.remove(known.settings, known.name, reason="an audit", keep=True)
    after = known.counts()
    for kind in ("files", "bytes", "timeseries_data", "ai_features_stored", "export_files", "jobs"):
        assert after[kind] == before[kind]
    assert {"models", "experiments", "api_keys", "redis_keys"}.isdisjoint(after)
    assert known.features(service, known.key).status_code == 401
    with pytest.raises(ConflictError, match="an audit"):
        registry.tenants.create_tenant(known.name)
    with pytest.raises(ConflictError, match="kept"):
        api_keys.create("other", [known.name], SCOPES[Role.VIEWER], created_by="test")
    with pytest.raises(ConflictError, match="kept"):
        sql_logins.grant(known.name, dsn=Settings().require("timescale_dsn"))
    removal.remove(known.settings, known.name, reason="the audit is over")
    registry.tenants.create_tenant(known.name)
    assert known.counts() == {}


class KilledError(Exception):
    """Stands for the end of the process."""


def test_remove__killed_after_each_step_in_turn__goes_on(known: Known) -> None:
    done: list[str] = []

    def die(step: str) -> None:
        if step not in done:
            done.append(step)
            raise KilledError

    for _ in range(5):
        with pytest.raises(KilledError):
            removal.remove(known.settings, known.name, reason="why", on_step=die)
    removal.remove(known.settings, known.name, reason="why")
    registry.tenants.create_tenant(known.name)
    assert known.counts() == {}


@pytest.mark.long
@pytest.mark.parametrize("steps", range(5))
def test_remove__killed_after_any_step__goes_on(known: Known, steps: int) -> None:
    left = steps

    def die(_: str) -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1

    with pytest.raises(KilledError):
        removal.remove(known.settings, known.name, reason="why", on_step=die)
    removal.remove(known.settings, known.name, reason="why")
    registry.tenants.create_tenant(known.name)
    assert known.counts() == {}


def test_remove__by_mlflows_page__the_name_waits_for_the_rest(known: Known) -> None:
    url = f"{known.registered.url}/api/3.0/mlflow/workspaces/{known.name}"
    assert requests.delete(url, params={"mode": "CASCADE"}, timeout=60).status_code == 204
    with pytest.raises(ConflictError, match="TimescaleDB, Redis, API keys and exports"):
        registry.tenants.create_tenant(known.name)
    removal.remove(known.settings, known.name, reason="why")
    registry.tenants.create_tenant(known.name)
    assert known.counts() == {}


def test_list__names_who_is_there_and_who_was(
    known: Known, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed() -> dict[str, Any]:
        _, out, _ = run(capsys, monkeypatch, "tenants", "list", "--json")
        actual = {item["tenant"]: item for item in json.loads(out)}
        return dict(actual.get(known.name, {}))

    assert (listed()["in_registry"], listed()["has_data"], listed()["removal"]) == (True, True, None)
    removal.remove(known.settings, known.name, reason="an audit", keep=True)
    assert (listed()["in_registry"], listed()["removal"]["step"]) == (False, "kept")
    assert run(capsys, monkeypatch, "tenants", "list")[0] == 0
    removal.remove(known.settings, known.name, reason="over")
    assert listed() == {}


def test_rename__only_what_carries_the_name_nowhere(
    known: Known, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = run(capsys, monkeypatch, "tenants", "rename", known.name, "elsewhere")
    assert (status, "cannot be renamed" in err, "99 timeseries data" in err) == (1, True, True)
    old, new = (f"tenant-{secrets.token_hex(4)}" for _ in range(2))
    assert run(capsys, monkeypatch, "tenants", "create", old)[0] == 0
    assert run(capsys, monkeypatch, "tenants", "create", old)[0] == 1
    assert run(capsys, monkeypatch, "tenants", "rename", old, new)[0] == 0
    names = registry.tenants.list_tenants()
    assert (old in names, new in names) == (False, True)
    assert run(capsys, monkeypatch, "tenants", "rename", old, new)[0] == 2
    with pytest.raises(BadInputError):
        registry.tenants.create_tenant("No Tenant")
