"""Models whose answer tells their version, and processes that open, or die opening, such a model."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ai_hub
from ai_hub import registry
from ai_hub.forecasting.card import ModelCard
from support.registry_servers import FORKS
from support.registry_tenant import MODEL, Tenant

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event

FEATURES = ["hour_of_day", "lag_1h", "lag_24h"]
ROWS = [{"hour_of_day": hour, "lag_1h": 1.0, "lag_24h": 2.0} for hour in range(3)]
_CARD = ModelCard("forecast_basic", FEATURES, ["lag_24h"], "demand", ["meter-001"], "kW")
#: so that a test can end a process in the middle of a download
_FILES_BEFORE_THE_END = 3


def answer_of(version: int) -> float:
    """What version `version` answers to every row."""
    return version * 10.0


def register(tenant: Tenant, folder: Path) -> int:
    """Train, log and register the next version."""
    with registry.tenant_scope(tenant.name):
        version = len(tenant.client.search_model_versions(f"name = '{MODEL}'")) + 1
        _save(folder / f"model-{version}", answer_of(version))
        run = tenant.client.create_run(tenant.experiment).info
        tenant.client.log_artifacts(run.run_id, str(folder / f"model-{version}"), "model")
        source = f"{run.artifact_uri}/model"
        return int(tenant.client.create_model_version(MODEL, source, run.run_id).version)


def promote(tenant: Tenant, folder: Path) -> int:
    """Register the next version and move it to Production."""
    version = register(tenant, folder)
    assert tenant.stage(version, "Production").ok
    return version


def open_elsewhere(
    tenant: str, url: str, cache: Path, *, dies: bool = False, together: Event | None = None
) -> tuple[BaseProcess, Connection]:
    """A process of its own that opens the model and sends what it answers.

    Args:
        tenant: whose model.
        url: of the registry.
        cache: folder of the client.
        dies: as by `kill -9`, midway through the download.
        together: set when the model is about to be opened.
    """
    receiving, sending = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_open, args=(tenant, url, str(cache), sending, dies, together))
    process.start()
    sending.close()
    return process, receiving


def _open(  # a process takes no keywords
    tenant: str, url: str, cache: str, sending: Connection, dies: bool, together: Event | None
) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = url
    if dies:
        _die_midway()
    with ai_hub.Client("http://127.0.0.1:9", tenant=tenant, cache_dir=Path(cache)) as client:
        if together is not None:
            together.set()
        model = client.model(MODEL)
        sending.send((model.version, list(model.predict(ROWS))))


def _die_midway() -> None:
    from ai_hub.registry import loading  # noqa: PLC0415  # in the process of its own only

    fetch, seen = loading._fetch, []

    def fetch_and_die(*arguments: Any) -> Path:
        seen.append(arguments)
        if len(seen) > _FILES_BEFORE_THE_END:
            os.kill(os.getpid(), signal.SIGKILL)
        return fetch(*arguments)

    loading._fetch = fetch_and_die


def _save(folder: Path, answer: float) -> None:
    # what other processes need not import
    import lightgbm as lgb  # noqa: PLC0415
    import mlflow.lightgbm  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    from mlflow.models import infer_signature  # noqa: PLC0415

    example = pd.DataFrame(ROWS * 20).astype("float64")
    data = lgb.Dataset(example, np.full(len(example), answer))
    booster = lgb.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 1)
    mlflow.lightgbm.save_model(
        booster,
        str(folder),
        signature=infer_signature(example, booster.predict(example)),
        pip_requirements=["lightgbm"],
        metadata=_CARD.as_metadata(),
    )
