"""Talking to the MLflow server: one address, our errors, no minutes of silent retries."""

from __future__ import annotations

import re
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLoggedInError,
    ServiceDownError,
)
from ai_hub.servers import without_secrets
from ai_hub.settings import Settings
from ai_hub.stack import health

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS: dict[int, type[AiHubError]] = {
    HTTPStatus.BAD_REQUEST: BadInputError,
    HTTPStatus.UNPROCESSABLE_ENTITY: BadInputError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.FORBIDDEN: ForbiddenError,
}
#: All that MLflow's login says.
_BARE_REFUSAL = "Permission denied"
#: Name and password in an address.
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")


class NoSuchRouteError(NotFoundError):
    """The server does not know this address."""


def tracking_uri() -> str:
    """Address of the MLflow server.

    Raises:
        SettingMissingError: it is not set.
    """
    return Settings().require("mlflow_tracking_uri")


def connect() -> MlflowClient:
    """A client of a server that answers.

    Raises:
        ServiceDownError: it does not.
    """
    health.require("mlflow")  # MLflow's client would try for minutes before it says so
    uri = tracking_uri()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into ours; the server's text stays whole."""
    try:
        yield
    except MlflowException as error:
        # RestException puts the code before the server's text
        text = str(error.message).removeprefix(f"{error.error_code}: ")
        raise _error(error.get_http_status_code(), text) from error
    except requests.HTTPError as error:  # of the artifact proxy
        if error.response is None:
            raise
        raise _error_of(error.response) from error


def call(method: str, path: str, **arguments: Any) -> dict[str, Any]:
    """Call a route MLflow's client does not know, in the tenant of the current scope.

    Raises:
        AiHubError: by the kind of the answer, with the server's text.
    """
    with readable_errors():
        response = http_request(
            get_default_host_creds(tracking_uri()), path, method, raise_on_status=False, **arguments
        )
    if response.status_code == HTTPStatus.OK:
        return dict(response.json())
    if response.status_code == HTTPStatus.NO_CONTENT:
        return {}
    raise _error_of(response)


def model_path(model: str) -> str:
    """Where our routes about a model begin."""
    return f"/ai-hub/api/models/{quote(model, safe='')}"


def _error_of(response: requests.Response) -> AiHubError:
    try:
        body = response.json()
    except ValueError:
        # MLflow's own errors are JSON; a path that leads nowhere gets Flask's page
        if response.status_code == HTTPStatus.NOT_FOUND:
            return NoSuchRouteError()
        return _error(response.status_code, response.text)
    return _error(response.status_code, str(body.get("message") or body.get("detail") or body))


def _error(status: int, message: str) -> AiHubError:
    # MLflow's client quotes the address it asked, with a login that is in it
    message = _LOGIN.sub("", message)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServiceDownError("MLflow", without_secrets(tracking_uri()), message)
    if status == HTTPStatus.UNAUTHORIZED:
        return NotLoggedInError(without_secrets(tracking_uri()))
    if status == HTTPStatus.FORBIDDEN and _BARE_REFUSAL in message:
        return ForbiddenError(hint="Ask the administrator for a role in the tenant (see docs/people.md).")
    return _KINDS.get(status, AiHubError)(message)
