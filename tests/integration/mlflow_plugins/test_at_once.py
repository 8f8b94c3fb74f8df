"""Eight promotions of one model at once, over HTTP to two servers of a database; `long` has 32, often."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import mlflow
import pytest
from oracles.lifecycle import Model
from support import properties, registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSIONS = 8


@pytest.fixture
def tenant(
    empty_database: str, stack: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tenant, Tenant]]:
    """A tenant as each of two servers shows it."""
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    before = mlflow.get_tracking_uri()
    with (
        registry_servers.running(empty_database, stack, tmp_path) as one,
        registry_servers.running(empty_database, stack, tmp_path) as other,
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", one.url)
        mlflow.set_tracking_uri(one.url)
        here = new_tenant(one.url)
        yield here, replace(here, url=other.url)
    mlflow.set_tracking_uri(before)


def test_promotions__at_once__leave_one_in_production(
    tenant: tuple[Tenant, Tenant], empty_database: str, tmp_path: Path
) -> None:
    versions = [
        tenant[0].register(tmp_path / "model")
        for _ in range(min(properties.examples(_VERSIONS), 4 * _VERSIONS))
    ]
    store = LifecycleStore(f"lifecycle+{empty_database}")

    def promote(version: int) -> int:
        # every other one by the alias, each kind at both servers
        server = tenant[version // 2 % 2]
        if version % 2:
            return server.stage(version, "Production").status_code
        return server.alias("production", version).status_code

    with registry.tenant_scope(tenant[0].name), ThreadPoolExecutor(len(versions)) as pool:
        model = Model(store, MODEL)
        for _ in range(properties.examples(1)):
            answers = dict(zip(versions, pool.map(promote, versions), strict=True))
            assert set(answers.values()) <= {200, 409}, answers
            stages = model.stages()
            assert Counter(stages.values())["Production"] == 1
            for version, status in answers.items():
                # whoever was let in is in Production or was archived by the next one
                assert stages[version] in ({"Production", "Archived"} if status == 200 else {"Staging"})
            model.check()
            for version, stage in stages.items():
                if stage == "Production":
                    model.move(version, "Archived")
                if stage != "Staging":
                    model.move(version, "Staging")
    store._dispose_engine()
