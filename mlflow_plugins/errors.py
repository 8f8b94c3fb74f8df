"""Refusals with codes that MLflow's server answers as 4xx, so that the text reaches the user at once.

`INVALID_STATE` and `INTERNAL_ERROR` map to 500, which MLflow's client retries for a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

_MISSING = "RESOURCE_DOES_NOT_EXIST"


def conflict(message: str) -> MlflowException:
    """The present state does not allow that (HTTP 409)."""
    return _error(message, "RESOURCE_CONFLICT")


def bad_input(message: str) -> MlflowException:
    """The request itself is wrong (HTTP 400)."""
    return _error(message, "INVALID_PARAMETER_VALUE")


def forbidden(message: str) -> MlflowException:
    """Nobody may do that through this door (HTTP 403)."""
    return _error(message, "PERMISSION_DENIED")


def missing(message: str) -> MlflowException:
    """There is nothing by that name (HTTP 404)."""
    return _error(message, _MISSING)


def unavailable(message: str) -> MlflowException:
    """A server behind this one does not answer (HTTP 503)."""
    return _error(message, "TEMPORARILY_UNAVAILABLE")


def is_missing(error: MlflowException) -> bool:
    """Whether it says that there is nothing by that name."""
    return bool(error.error_code == _MISSING)


def _error(message: str, code: str) -> MlflowException:
    # clients import this module, and need MLflow only where something is wrong
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from mlflow.protos.databricks_pb2 import ErrorCode  # noqa: PLC0415

    return MlflowException(message, ErrorCode.Value(code))
