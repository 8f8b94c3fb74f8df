"""The audit log of a real server: a line of JSON for every transition and every refusal."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["a file", pytest.param("standard output", marks=pytest.mark.long)])
def audited(
    request: pytest.FixtureRequest,
    stack: dict[str, str],
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Tenant, Path]]:
    """A tenant with two versions, and where its server's audit log goes."""
    before = mlflow.get_tracking_uri()
    log = tmp_path / "audit.jsonl"
    settings = {"AUDIT_LOG_PATH": str(log)} if request.param == "a file" else {}
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with registry_servers.running(database, stack, tmp_path, settings=settings) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        mlflow.set_tracking_uri(server.url)
        tenant = new_tenant(server.url)
        for _ in range(2):
            tenant.register(tmp_path / "model")
        yield tenant, log if settings else server.log
    mlflow.set_tracking_uri(before)


def test_audit_log__has_a_line_for_every_transition_and_refusal(audited: tuple[Tenant, Path]) -> None:
    tenant, log = audited
    registry.promote(tenant.name, MODEL, 1, reason="the first\none")
    tenant.alias("production", 2)
    assert tenant.stage(1, "Staging").status_code == 200
    assert tenant.stage(2, "Staging").status_code == 409
    with pytest.raises(ConflictError):
        registry.delete(tenant.name, MODEL, 2, reason="away with it")
    registry.delete(tenant.name, MODEL, 2, force=True, reason="away with it")
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert all(event["workspace"] == tenant.name and event["name"] == MODEL for event in events)
    written = [event for event in events if event["event"] == "transition"]
    recorded = registry.history(tenant.name, MODEL)[::-1]
    assert [_as_recorded(event) for event in written] == [
        {key: getattr(row, key) for key in _as_recorded(written[0])} for row in recorded
    ]
    refused = [event for event in events if event["event"] == "refused"]
    assert [(event["version"], event["to_stage"], event["status"]) for event in refused] == [
        ("2", "Staging", 409), (2, "Deleted", 409),
    ]  # fmt: skip
    assert "Production → Staging is not allowed" in refused[0]["message"]
    for event in refused:
        assert abs(datetime.fromisoformat(event["at"]) - datetime.now(UTC)) < timedelta(minutes=5)


def _as_recorded(event: dict[str, Any]) -> dict[str, Any]:
    fields = ("version", "semantic_version", "from_stage", "to_stage", "actor", "actor_source", "reason")
    return {
        **{name: event[name] for name in (*fields, "evidence")},
        "at": datetime.fromisoformat(event["at"]),
    }
