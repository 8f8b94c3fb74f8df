"""Errors of the client, made from the service's responses."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    ServiceDownError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from ai_hub.api.schemas.exports import ExportJob
    from ai_hub.client.predictions import Prediction

_LONGEST_TEXT = 500


class KeyRefusedError(ForbiddenError):
    """The service does not accept the key, or none was given."""


class BusyError(AiHubError):
    """The limit of requests for this caller is reached."""

    retryable = True

    #: seconds to wait before the next request
    retry_after_s: float | None = None


class UnavailableError(ServiceDownError):
    """The service, or a server behind it, does not answer or has too much to do."""

    #: seconds to wait before the next request
    retry_after_s: float | None = None

    def __init__(self, message: str, endpoint: str, *, hint: str | None = None) -> None:
        AiHubError.__init__(self, message, hint=hint)
        self.service = "AI Hub"
        self.endpoint = endpoint


class ClosedError(ConflictError):
    """The client is closed."""


class ExportFailedError(AiHubError):
    """The export failed."""

    def __init__(self, job: ExportJob) -> None:
        self.job = job
        super().__init__(
            f"Export {job.export_id} failed: {job.error or job.message}", hint="Start it again with export()."
        )


class DegradedError(AiHubError):
    """Features a prediction needs are missing, or servers behind them are down."""

    retryable = True

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        #: what would have been returned
        self.predictions = list(predictions)
        first, *others = (prediction for prediction in predictions if prediction.degraded)
        if first.missing:
            text = f"Asset {first.asset_id} has no value for {', '.join(first.missing)}"
        else:
            text = f"Servers behind the features of asset {first.asset_id} are down"
        super().__init__(
            f"{text}, and {len(others)} more are degraded." if others else f"{text}.",
            hint='Wait for the servers or the readings, or accept such predictions with on_degraded="flag".',
        )


_KINDS: dict[int, type[AiHubError]] = {
    HTTPStatus.BAD_REQUEST: BadInputError,
    HTTPStatus.UNAUTHORIZED: KeyRefusedError,
    HTTPStatus.FORBIDDEN: ForbiddenError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: BadInputError,
    HTTPStatus.UNPROCESSABLE_ENTITY: BadInputError,
    HTTPStatus.TOO_MANY_REQUESTS: BusyError,
}
#: of the service, or of a proxy before it
_UNAVAILABLE = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


def error_of_response(response: httpx.Response, endpoint: str, request_id: str) -> AiHubError:
    """The error for a response with status 4xx or 5xx, with the service's own text."""
    problem = _problem(response)
    message, hint = _message(response, problem), problem.get("hint")
    status = response.status_code
    error: AiHubError
    if status in _UNAVAILABLE:
        error = UnavailableError(message, endpoint, hint=hint)
    else:
        error = _KINDS.get(status, AiHubError)(message, hint=hint)
    if isinstance(error, UnavailableError | BusyError):
        error.retry_after_s = _seconds(response.headers.get("Retry-After"))
    return with_id(error, str(problem.get("request_id") or request_id))


def with_id(error: AiHubError, request_id: str) -> AiHubError:
    """The error with the id of its request, which tracebacks show, too."""
    error.request_id = request_id
    error.add_note(f"request id {request_id}")
    return error


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _message(response: httpx.Response, problem: dict[str, Any]) -> str:
    text = problem.get("message")
    if not text:
        start = response.text[:_LONGEST_TEXT].strip()
        return f"The service answered {response.status_code} {response.reason_phrase}: {start or 'no text'}"
    return "\n".join([str(text), *_details(problem.get("details"))])


def _details(listed: Any) -> list[str]:
    """The fields and what is wrong with them; a proxy may have sent anything."""
    return [
        f"{item['field']}: {item['problem']}"
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict) and {"field", "problem"} <= item.keys()
    ]


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(float(retry_after), 0.0) if retry_after else None
    except ValueError:  # a date: nothing of ours sends one
        return None
