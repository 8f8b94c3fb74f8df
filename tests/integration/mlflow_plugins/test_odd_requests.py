"""What no column holds, and models logged as MLflow 3 logs them: words instead of errors of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from support.registry_tenant import MODEL, new_tenant

from ai_hub import registry
from mlflow_plugins.users.permissions import REASON_TAG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlflow.tracking import MlflowClient
    from oracles.lifecycle import Model


NO_VERSION = [2**31, 2**63, int("9" * 20), "9" * 5000]


def _status(action: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(MlflowException) as refusal:
        action()
    return refusal.value.get_http_status_code(), str(refusal.value.message)


@pytest.mark.parametrize(("reason", "word"), [("x" * 5001, "5001 characters"), ("x\0y", "NUL")])
def test_reason__that_no_trail_holds__is_refused_at_every_door(model: Model, reason: str, word: str) -> None:
    store, name = model.store, model.name
    version = model.register()
    doors = [
        lambda: store.move_version(name, version, "Production", reason=reason),
        lambda: store.remove_version(name, version, force=True, reason=reason),
        lambda: store.roll_back(name, version, reason=reason),
        lambda: store.gates(name, version, reason=reason),
    ]
    if "\0" not in reason:  # which no tag holds either
        store.set_model_version_tag(name, version, ModelVersionTag(REASON_TAG, reason))
        doors += [
            lambda: store.set_registered_model_alias(name, "production", version),
            lambda: store.transition_model_version_stage(name, version, "Archived", False),
        ]
    for door in doors[:2] + doors[3:]:
        status, text = _status(door)
        assert (status, word in text) == (400, True), text
    assert model.stages() == {version: "Staging"}


def test_reason__as_long_as_the_trail_holds__is_kept(model: Model) -> None:
    version = model.register()
    model.store.move_version(model.name, version, "Production", reason="ä" * 5000)
    assert model.store.history(model.name)[0].reason == "ä" * 5000


@pytest.mark.parametrize("number", NO_VERSION, ids=["2^31", "2^63", "20 digits", "5000 digits"])
def test_version__that_no_column_holds__is_not_found(model: Model, number: int | str) -> None:
    model.register()
    store, name = model.store, model.name
    doors: list[Callable[[], object]] = [
        lambda: store.get_model_version(name, number),
        lambda: store.get_model_version_download_uri(name, number),
        lambda: store.transition_model_version_stage(name, number, "Archived", False),
        lambda: store.set_registered_model_alias(name, "production", number),
        lambda: store.set_registered_model_alias(name, "champion", number),
        lambda: store.set_model_version_tag(name, number, ModelVersionTag("a", "b")),
        lambda: store.delete_model_version(name, number),
        lambda: store.remove_version(name, number, force=True),
        lambda: store.gates(name, number),
        lambda: store.roll_back(name, number),
        lambda: store.update_model_version(name, number, "text"),
    ]
    for door in doors:
        status, text = _status(door)
        assert status in {400, 404}, text
    model.check()


def test_register__a_logged_model_by_its_run__is_found(stack: dict[str, str], tmp_path: Path) -> None:
    acme = new_tenant(stack["MLFLOW_TRACKING_URI"])
    client: MlflowClient = acme.client
    (tmp_path / "MLmodel").write_text("flavors: {}")
    with registry.tenant_scope(acme.name):
        run = client.create_run(acme.experiment)
        for step, content in enumerate([b"first", b"second"]):
            (tmp_path / "model.bin").write_bytes(content)
            logged = client.create_logged_model(acme.experiment, "forecaster", run.info.run_id)
            client.log_model_artifacts(logged.model_id, str(tmp_path))
            client.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step)])
        made = client.create_model_version(MODEL, f"runs:/{run.info.run_id}/forecaster", run.info.run_id)
        with pytest.raises(MlflowException, match="Log the model first"):
            client.create_model_version(MODEL, f"runs:/{run.info.run_id}/nothing", run.info.run_id)
    file = acme.artifact("GET", f"workspaces/{acme.name}/.models/{MODEL}/v1.0.0/model.bin")
    assert (str(made.version), file.content) == ("1", b"second")
