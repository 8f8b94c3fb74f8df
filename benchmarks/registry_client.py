"""A model registry as its clients use it: log, register, promote, resolve, load."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import requests
import yaml
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from mlflow_plugins.store.lifecycle_store import LifecycleStore

_API: Final = "/api/2.0/mlflow"
_ARCHIVED, _PRODUCTION = "Archived", "Production"


@dataclass(frozen=True)
class Logged:
    """A model among a run's artifacts."""

    run_id: str
    source: str


@dataclass
class Registry:
    """A running server and the database behind it."""

    url: str
    database: str
    #: whether it is ours, which refuses some of what stock MLflow does
    ours: bool
    session: requests.Session = field(default_factory=requests.Session)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client."""
        return MlflowClient(self.url, self.url)

    def log(self, size: int, seed: int) -> Logged:
        """Log a model of about `size` bytes in five files."""
        experiment = self.client.create_experiment(f"experiment {size}")
        run = self.client.create_run(experiment).info
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}}))
            for requirements in ("requirements.txt", "conda.yaml", "python_env.yaml"):
                (folder / requirements).write_text("lightgbm==4.6.0\n")
            (folder / "model.lgb").write_bytes(np.random.default_rng(seed).bytes(size))
            self.client.log_artifacts(run.run_id, name, "model")
        return Logged(run.run_id, f"{run.artifact_uri}/model")

    def create(self, model: str) -> None:
        """A model without versions."""
        self._call("POST", "registered-models/create", {"name": model})

    def register(self, model: str, logged: Logged) -> str:
        """A new version, in Staging; returns its number."""
        body = {"name": model, "source": logged.source, "run_id": logged.run_id}
        return str(self._call("POST", "model-versions/create", body)["model_version"]["version"])

    def fill(self, model: str, count: int) -> None:
        """Create many versions without files, directly in the database."""
        store = self._store()
        for _ in range(count):
            store.create_model_version(model, "filling")
        store._dispose_engine()  # noqa: SLF001  # there is no other way to close its connections

    def promote(self, model: str, version: str) -> None:
        """Promote a version by the call of the stage menu."""
        self._move(model, version, _PRODUCTION)

    def make_promotable(self, model: str, version: str) -> None:
        """Take a version out of Production, so that it can be promoted again."""
        self._move(model, version, _ARCHIVED)

    def settle(self, model: str, version: str) -> None:
        """Make `models:/MODEL@production` a version that is in Production; ours has done it by then."""
        if not self.ours:
            self.client.set_registered_model_alias(model, "production", version)

    def resolve(self, model: str) -> str:
        """Where the files of `models:/MODEL@production` are, by the two calls of MLflow's client."""
        answer = self._call("GET", "registered-models/alias", {"name": model, "alias": "production"})
        version = {"name": model, "version": answer["model_version"]["version"]}
        return str(self._call("GET", "model-versions/get-download-uri", version)["artifact_uri"])

    def load(self, model: str) -> int:
        """Download `models:/MODEL@production`; returns how many bytes."""
        folder = tempfile.mkdtemp()
        try:
            get_artifact_repository(self.resolve(model), tracking_uri=self.url).download_artifacts("", folder)
            return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        finally:
            shutil.rmtree(folder)

    def _move(self, model: str, version: str, stage: str) -> None:
        # ours archives the previous one whatever this says; stock MLflow fails in it with psycopg 3
        body = {"name": model, "version": version, "stage": stage, "archive_existing_versions": False}
        self._call("POST", "model-versions/transition-stage", body)

    def _store(self) -> SqlAlchemyStore:
        return LifecycleStore(f"lifecycle+{self.database}") if self.ours else SqlAlchemyStore(self.database)

    def _call(self, method: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        argument = "params" if method == "GET" else "json"
        answer = self.session.request(method, f"{self.url}{_API}/{path}", timeout=300, **{argument: fields})
        if not answer.ok:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
        return dict(answer.json())
