"""Every way into the registry, as one person uses it, and what became of the attempt."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from unittest import mock

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support.people_server import PeopleServer

from ai_hub import cli, registry
from ai_hub.errors import AiHubError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


MLFLOW: Final = "/api/2.0/mlflow"
STAGE_DOORS: Final = (
    "client",
    "stage menu",
    "alias",
    "alias by client",
    "own route",
    "python",
    "command line",
)
ROLLBACK_DOORS: Final = ("own route", "python", "command line")
DELETE_DOORS: Final = ("client", "rest", "own route", "python", "command line")


@dataclass(frozen=True)
class Person:
    """Somebody with a login, who acts on one model of a tenant; every method answers None when it is done,
    else the text of the refusal, and fails on anything that is not a refusal (4xx)."""

    server: PeopleServer
    name: str
    tenant: str
    model: str

    def register(self, source: str, run_id: str) -> str | None:
        """Register a version from a run's files."""
        body = {"name": self.model, "source": source, "run_id": run_id}
        return self._post(f"{MLFLOW}/model-versions/create", body)

    def move(self, door: str, version: int, stage: str) -> str | None:
        """Move a version to a stage."""
        if door == "stage menu":
            body = {"name": self.model, "version": str(version), "stage": stage}
            path = f"{MLFLOW}/model-versions/transition-stage"
            return self._post(path, body | {"archive_existing_versions": False})
        if door == "alias":
            body = {"name": self.model, "version": str(version), "alias": stage.lower()}
            return self._post(f"{MLFLOW}/registered-models/alias", body)
        if door == "own route":
            return self._post(f"{self._path}/versions/{version}/stage", {"stage": stage, "reason": "a door"})
        if door == "command line":
            return self._command("promote", "--version", str(version), "--stage", stage)
        actions: dict[str, Callable[[], object]] = {
            "client": lambda: self._transition(version, stage),
            "alias by client": lambda: self._client.set_registered_model_alias(
                self.model, stage.lower(), str(version)
            ),
            "python": lambda: registry.promote(self.tenant, self.model, version, stage=stage),
        }
        return self._call(actions[door])

    def roll_back(self, door: str) -> str | None:
        """Put the version that was in Production before back."""
        if door == "own route":
            return self._post(f"{self._path}/rollback", {"reason": "a door"})
        if door == "command line":
            return self._command("rollback")
        return self._call(lambda: registry.rollback(self.tenant, self.model))

    def delete(self, door: str, version: int, *, force: bool) -> str | None:
        """Delete a version; MLflow's own doors know no force."""
        if door == "client":
            return self._call(lambda: self._client.delete_model_version(self.model, str(version)))
        if door == "rest":
            body = {"name": self.model, "version": str(version)}
            return self._send("DELETE", f"{MLFLOW}/model-versions/delete", json=body)
        if door == "own route":
            path = f"{self._path}/versions/{version}"
            return self._send("DELETE", path, params={"force": str(force).lower()})
        if door == "command line":
            return self._command("delete", "--version", str(version), *(["--force"] if force else []))
        return self._call(lambda: registry.delete(self.tenant, self.model, version, force=force))

    def tag(self, version: int, key: str, value: str) -> str | None:
        """Set a version's tag, as the pages do."""
        body = {"name": self.model, "version": str(version), "key": key, "value": value}
        return self._post(f"{MLFLOW}/model-versions/set-tag", body)

    def delete_alias(self, alias: str) -> str | None:
        """Remove an alias by hand."""
        body = {"name": self.model, "alias": alias}
        return self._send("DELETE", f"{MLFLOW}/registered-models/alias", json=body)

    @property
    def _path(self) -> str:
        return f"/ai-hub/api/models/{self.model}"

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.server.url, self.server.url)

    def _transition(self, version: int, stage: str) -> None:
        with warnings.catch_warnings():
            # MLflow's client would rather have aliases than stages
            warnings.simplefilter("ignore", FutureWarning)
            self._client.transition_model_version_stage(self.model, str(version), stage)

    def _post(self, path: str, body: Mapping[str, object]) -> str | None:
        return self._send("POST", path, json=body)

    def _send(self, method: str, path: str, **arguments: object) -> str | None:
        with self.server.session(self.name, self.tenant) as session:
            answer = session.request(method, path, **arguments)
        if answer.status_code == HTTPStatus.OK:
            return None
        assert HTTPStatus.BAD_REQUEST <= answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.text
        return str(answer.text)

    def _call(self, action: Callable[[], object]) -> str | None:
        with self.server.person(self.name), registry.tenant_scope(self.tenant):
            try:
                action()
            except MlflowException as error:
                if error.get_http_status_code() >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                return str(error)
            except ServiceDownError:
                raise
            except AiHubError as error:
                return str(error)
        return None

    def _command(self, *arguments: str) -> str | None:
        name, *options = arguments
        line = ["ai-hub", name, self.model, "--tenant", self.tenant, *options]
        out, err = io.StringIO(), io.StringIO()
        with (
            self.server.person(self.name),
            mock.patch("sys.argv", line),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                cli.main()
            except SystemExit as done:
                return None if done.code in {0, None} else err.getvalue()
        return None
