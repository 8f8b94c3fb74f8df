"""Refusals with codes that MLflow's server answers as 4xx, so that the text reaches the user at once.

`INVALID_STATE` and `INTERNAL_ERROR` map to 500, which MLflow's client retries for a minute.
"""

from __future__ import annotations

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)


class GateRefusalError(MlflowException):
    """Gates refuse a promotion (HTTP 409); `evidence` is what they saw."""

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message, RESOURCE_CONFLICT)
        self.evidence = evidence


def conflict(message: str) -> MlflowException:
    """The present state does not allow that (HTTP 409)."""
    return MlflowException(message, RESOURCE_CONFLICT)


def bad_input(message: str) -> MlflowException:
    """The request itself is wrong (HTTP 400)."""
    return MlflowException(message, INVALID_PARAMETER_VALUE)


def forbidden(message: str) -> MlflowException:
    """Nobody may do that through this door (HTTP 403)."""
    return MlflowException(message, PERMISSION_DENIED)


def missing(message: str) -> MlflowException:
    """There is nothing by that name (HTTP 404)."""
    return MlflowException(message, RESOURCE_DOES_NOT_EXIST)


def unavailable(message: str) -> MlflowException:
    """A server behind this one does not answer (HTTP 503)."""
    return MlflowException(message, TEMPORARILY_UNAVAILABLE)


def is_missing(error: MlflowException) -> bool:
    """Whether it says that there is nothing by that name."""
    return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))
