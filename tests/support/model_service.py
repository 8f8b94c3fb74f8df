"""The REST service beside a real MLflow, called by people with tokens of an OpenID provider.

with running(servers.start("s3"), folder, KEYS) as service:
    service.register("rita", upload(ACME, "demand"))
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from ai_hub import registry
from ai_hub.access.principal import ALL_SCOPES, Principal, Scope
from ai_hub.registry.registering import EXPERIMENT
from support import openid_provider
from support.service_server import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ACME = "acme-by-rest"
#: Model `guarded` takes four eyes, and an error below two.
POLICY = f"""
defaults:
  manifest: true
tenants:
  {ACME}:
    models:
      guarded:
        approver_is_not_author: true
        required_metrics: {{metrics: {{mae: {{max: 2}}}}}}
"""
MLMODEL = {
    "flavors": {
        "lightgbm": {"data": "data/model.lgb"},
        "python_function": {"loader_module": "mlflow.lightgbm"},
    },
    "signature": {"inputs": '[{"name": "lag_1h", "type": "double"}]', "outputs": '[{"type": "double"}]'},
}


@dataclass(frozen=True)
class ModelService:
    """A running service and the MLflow it asks."""

    url: str
    mlflow_url: str
    people: Mapping[str, Principal]

    def call(self, person: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request with a token of a person; `path` is below `/ai/models`."""
        who = self.people[person]
        claims = {"sub": who.name, "tenants": sorted(who.tenants), "scope": " ".join(sorted(who.scopes))}
        bearer = openid_provider.token("EdDSA", **claims)
        headers = {"Authorization": f"Bearer {bearer}", **arguments.pop("headers", {})}
        return httpx.request(method, f"{self.url}/ai/models{path}", headers=headers, timeout=60, **arguments)

    def register(self, person: str, body: Any) -> httpx.Response:
        """Register a version."""
        return self.call(person, "POST", "/register", json=body)

    def promote(
        self, person: str, model_id: str, stage: str, reason: str | None = "it is better"
    ) -> httpx.Response:
        """Move a version."""
        return self.call(
            person, "PUT", f"/{model_id}/promote", json={"target_stage": stage, "reason": reason}
        )

    def client(self) -> MlflowClient:
        """MLflow's own client."""
        return MlflowClient(self.mlflow_url, self.mlflow_url)


def _principal(name: str, tenants: set[str], scopes: set[Scope]) -> Principal:
    return Principal(name, frozenset(tenants), frozenset(scopes))


#: By name. `nowhere` is no workspace of MLflow.
PEOPLE: dict[str, Principal] = {
    "olga": _principal("olga", {ACME, "nowhere"}, set(ALL_SCOPES)),
    "rita": _principal("rita", {ACME}, {Scope.MODELS_READ, Scope.MODELS_REGISTER}),
    "paul": _principal("paul", {ACME}, {Scope.MODELS_READ, Scope.MODELS_PROMOTE}),
    "dora": _principal("dora", {ACME}, {Scope.MODELS_DELETE}),
    "vera": _principal("vera", {ACME}, {Scope.MODELS_READ}),
    "noah": _principal("noah", {ACME}, {Scope.FEATURES_READ}),
    "bert": _principal("bert", {"beta"}, set(ALL_SCOPES)),
}


def upload(tenant: str, model: str, **more: Any) -> dict[str, Any]:
    """Body of a registration with files."""
    files = {"MLmodel": yaml.safe_dump(MLMODEL).encode(), "data/model.lgb": b"tree"}
    return {
        "tenant_id": tenant,
        "model_name": model,
        "metadata": {"model_type": "demand_forecast"},
        "artifact": {"type": "upload", "files": encoded(files)},
        **more,
    }


def encoded(files: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Files as a request carries them."""
    return [{"path": path, "content": base64.b64encode(data).decode()} for path, data in files.items()]


def booster(columns: Sequence[str], *, rounds: int = 20) -> lgb.Booster:
    """A small model of these columns."""
    draws = np.random.default_rng(8)
    rows = pd.DataFrame(draws.normal(5, 3, (400, len(columns))), columns=list(columns))
    target = rows @ np.arange(1, len(columns) + 1) + 3 * (rows[columns[0]] > 5) * rows[columns[-1]]
    parameters = {"num_leaves": 6, "min_data_in_leaf": 10, "seed": 1, "verbosity": -1, "num_threads": 1}
    return lgb.train(parameters, lgb.Dataset(rows, target), num_boost_round=rounds)


def booster_upload(tenant: str, model: str, made: lgb.Booster, **more: Any) -> dict[str, Any]:
    """Body of a registration of a booster, with the features of `forecast_basic`."""
    columns = [{"name": name, "type": "double"} for name in made.feature_name()]
    described = MLMODEL | {
        "signature": {"inputs": json.dumps(columns), "outputs": '[{"type": "double"}]'},
    }
    files = {"MLmodel": yaml.safe_dump(described).encode(), "data/model.lgb": made.model_to_string().encode()}
    return {
        "tenant_id": tenant,
        "model_name": model,
        "metadata": {
            "model_type": "demand_forecast",
            "training_config": {"feature_service": "forecast_basic"},
        },
        "artifact": {"type": "upload", "files": encoded(files)},
        **more,
    }


def uploads(service: ModelService, tenant: str, model: str) -> list[Any]:
    """Runs of uploads of a model that are there."""
    with registry.tenant_scope(tenant):
        client = service.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in runs if run.info.run_name.startswith(model)]


@contextmanager
def running(
    mlflow_url: str, people: Mapping[str, Principal], options: Mapping[str, Any] | None = None
) -> Iterator[ModelService]:
    """A service for these people, on the MLflow of the environment."""

    with pytest.MonkeyPatch.context() as patch, openid_provider.running_provider() as provider:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
        patch.setenv("MLFLOW_REGISTRY_URI", mlflow_url)
        chosen = {"registry_timeout_s": 60, **(options or {})}
        with running_service(options=provider.options(**chosen)) as url:
            yield ModelService(url, mlflow_url, people)
