"""What servers and commands share that are forked from one process, which imports this (`mlflow_servers`)."""

from __future__ import annotations

import gc
import os
from importlib import import_module

from ai_hub.imports import collect_garbage_less_often, skip_type_checks

collect_garbage_less_often()
if not os.environ.get("AI_HUB_TEST_TYPE_CHECKS"):
    skip_type_checks()
for _name in (
    # the first makes MLflow take the rest for a server's process
    *("uvicorn", "mlflow.server.fastapi_app", "mlflow_plugins.store.lifecycle_store"),
    *("mlflow_plugins.web.app", "ai_hub.cli.main", "ai_hub.cli.feast_main", "feast.repo_operations"),
    *("ai_hub.ingest.files", "ai_hub.features.materialize"),
    *("ai_hub.features.online.reader", "ai_hub.forecasting.day_ahead_training", "ai_hub.forecasting.train"),
    "ai_hub.forecasting.production",
):
    try:
        import_module(_name)
    except ImportError as error:  # which the process that imports this would pass over in silence
        raise RuntimeError(f"{_name} cannot be imported") from error
gc.collect()
# collections in the others would write to each object, and so copy its page
gc.freeze()
