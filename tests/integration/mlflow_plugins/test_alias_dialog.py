"""Every combination of chips in MLflow's alias dialog, sent as its page sends it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

import mlflow
import pytest
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

ALIASES = ("staging", "production", "archived")
#: Written out once more: what a person may do with a version that was never in Production before.
ALLOWED = {
    ("staging", "production"),
    ("staging", "archived"),
    ("production", "archived"),
    ("archived", "staging"),
}
DRAFTS = list(chain.from_iterable(combinations(ALIASES, count) for count in range(4)))


@dataclass
class Dialog:
    """The dialog of one version, opened on its page."""

    tenant: Tenant
    version: int

    def save(self, draft: tuple[str, ...]) -> dict[tuple[str, str], requests.Response]:
        """Send a request for each chip that differs, all at once; those that add go first."""
        shown = set(self.aliases())
        wishes = [("POST", alias) for alias in draft if alias not in shown]
        wishes += [("DELETE", alias) for alias in shown if alias not in draft]
        with ThreadPoolExecutor(max(1, len(wishes))) as pool:
            return dict(zip(wishes, pool.map(self._send, wishes), strict=True))

    def aliases(self) -> list[str]:
        """Chips that the page shows when it is loaded."""
        with registry.tenant_scope(self.tenant.name):
            return list(self.tenant.client.get_model_version(MODEL, str(self.version)).aliases)

    def stage(self) -> str:
        return self.tenant.stages()[self.version].lower()

    def _send(self, wish: tuple[str, str]) -> requests.Response:
        method, alias = wish
        body = {"name": MODEL, "alias": alias, "version": str(self.version)}
        return self.tenant.call(method, "/ajax-api/2.0/mlflow/registered-models/alias", json=body)


@pytest.fixture
def acme(stack: dict[str, str]) -> Iterator[Tenant]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(stack["MLFLOW_TRACKING_URI"])
    yield new_tenant(stack["MLFLOW_TRACKING_URI"])
    mlflow.set_tracking_uri(before)


def in_stage(tenant: Tenant, stage: str, folder: Path) -> Dialog:
    """The dialog of a new version that is in `stage`."""
    version = tenant.register(folder)
    if stage != "staging":
        assert tenant.stage(version, stage.capitalize()).status_code == 200
    return Dialog(tenant, version)


def entries(dialog: Dialog) -> int:
    return len(registry.history(dialog.tenant.name, MODEL, version=dialog.version))


@pytest.mark.parametrize(
    "start",
    ["production", *(pytest.param(alias, marks=pytest.mark.long) for alias in ("staging", "archived"))],
)
def test_dialog__any_chips__is_green_when_all_of_it_happened_and_red_when_not(
    acme: Tenant, tmp_path: Path, start: str
) -> None:
    for draft in DRAFTS:
        dialog = in_stage(acme, start, tmp_path / "model")
        assert dialog.aliases() == [start]
        before = entries(dialog)
        answers = dialog.save(draft)
        added = [alias for alias in draft if alias != start]
        told = f"{start} to {draft}: {[(wish, answer.text) for wish, answer in answers.items()]}"
        is_green = all(answer.status_code == 200 for answer in answers.values())
        assert all(answer.status_code in {200, 409} for answer in answers.values()), told
        moved = [alias for alias in added if answers["POST", alias].status_code == 200]
        # each move that was told to have happened did happen, and no other
        assert entries(dialog) - before == len(moved), told
        assert dialog.stage() in (moved or [start]), told
        if len(added) == 1:
            assert is_green == ((start, added[0]) in ALLOWED), told
        elif not added and draft != (start,):
            assert not is_green, told
            assert "cannot be removed by itself" in answers["DELETE", start].json()["message"]


def test_dialog__of_a_page_loaded_long_ago__takes_no_alias_from_another_version(
    acme: Tenant, tmp_path: Path
) -> None:
    old, new = (in_stage(acme, "staging", tmp_path / "model") for _ in range(2))
    acme.alias("champion", old.version)
    acme.alias("champion", new.version)
    assert old._send(("DELETE", "champion")).status_code == 200
    assert new.aliases() == ["champion", "staging"]
    # without a version, as by the API, it is the alias that goes
    body = {"name": MODEL, "alias": "champion"}
    answer = acme.call("DELETE", "/api/2.0/mlflow/registered-models/alias", json=body)
    assert answer.status_code == 200, answer.text
    assert new.aliases() == ["staging"]
