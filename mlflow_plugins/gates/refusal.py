"""The refusal of a promotion by its gates, with what they saw."""

from __future__ import annotations

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_CONFLICT


class GateRefusalError(MlflowException):
    """Gates refuse a promotion (HTTP 409); `evidence` is what they saw."""

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message, RESOURCE_CONFLICT)
        self.evidence = evidence
