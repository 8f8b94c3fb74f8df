"""MLflow's reports of its use, off unless a setting turns them on."""

from __future__ import annotations

from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from mlflow.telemetry.client import set_telemetry_client


def report_nothing() -> None:
    """Turn the reports of this server off, unless MLFLOW_DISABLE_TELEMETRY says something."""
    if not MLFLOW_DISABLE_TELEMETRY.is_set():
        MLFLOW_DISABLE_TELEMETRY.set(True)
        set_telemetry_client()
