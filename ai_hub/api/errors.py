"""Errors as every endpoint answers them: what is wrong, and what to do next."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ai_hub.access.principal import UnauthenticatedError
from ai_hub.api.paths import templates_of
from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLoggedInError,
    ServiceDownError,
    SettingMissingError,
)
from ai_hub.exports.export import RangeError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

_log = structlog.get_logger(__name__)


class MalformedError(BadInputError):
    """The request does not have the form that its endpoint takes."""


class TooManyRequestsError(AiHubError):
    """You ask more often than you may."""

    retryable = True


class TooLargeError(BadInputError):
    """The request is larger than this endpoint takes."""


class TooSlowError(BadInputError):
    """The request does not come in time."""


class OverloadedError(AiHubError):
    """The service has as much to do as it can."""

    retryable = True


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["body.lookback_hours"])
    problem: str = Field(examples=["Input should be less than or equal to 8760"])


class Problem(BaseModel):
    """Body of every answer with status 4xx or 5xx."""

    error: str = Field(description="kind of the error, for programs", examples=["not_found"])
    message: str = Field(examples=["Tenant city-works has no asset meter-0815."])
    hint: str | None = Field(None, description="what to do next", examples=["Did you mean meter-081?"])
    details: list[FieldProblem] | None = Field(None, description="of a malformed request: each field")
    request_id: str | None = Field(None, description="the same as in the header X-Request-ID and in the logs")


#: By class of the error, the most special first: status and kind.
KINDS: tuple[tuple[type[AiHubError], HTTPStatus, str], ...] = (
    (UnauthenticatedError, HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    (ForbiddenError, HTTPStatus.FORBIDDEN, "forbidden"),
    (MalformedError, HTTPStatus.UNPROCESSABLE_ENTITY, "malformed"),
    (TooSlowError, HTTPStatus.REQUEST_TIMEOUT, "request_timeout"),
    (RangeError, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range_not_satisfiable"),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    (TooManyRequestsError, HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests"),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (BadInputError, HTTPStatus.BAD_REQUEST, "bad_input"),
    (NotFoundError, HTTPStatus.NOT_FOUND, "not_found"),
    (ConflictError, HTTPStatus.CONFLICT, "conflict"),
    (ServiceDownError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    # of the service itself, not of the caller
    (NotLoggedInError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (SettingMissingError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
)
#: Where whoever raised the error knew none, such as MLflow.
_HINTS = {
    HTTPStatus.BAD_REQUEST: "Correct it, and ask again; see the endpoint in /docs.",
    HTTPStatus.UNAUTHORIZED: "Send a valid key in the header X-API-Key.",
    HTTPStatus.FORBIDDEN: "Ask the administrator for a key with that scope and tenant.",
    HTTPStatus.NOT_FOUND: "List what there is, and check the name.",
    HTTPStatus.CONFLICT: "Change first what the message names.",
}
_RETRY_AFTER_S = "1"
_LONGEST_REASON = 500


def status_and_kind(error: AiHubError) -> tuple[HTTPStatus, str]:
    """HTTP status and kind of an error."""
    for known, status, kind in KINDS:
        if isinstance(error, known):
            return status, kind
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal"


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: those statuses answer with `Problem`."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def answer(error: AiHubError, scope: Any) -> JSONResponse:
    """The response to the request of `scope`, which ended in `error`; its line in the log gets the reason."""
    status, kind = status_and_kind(error)
    request_id = request_id_of(scope)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal(request_id)
    note_reason(scope, kind, error.message)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        headers["Retry-After"] = _RETRY_AFTER_S
    message, hint = error.message, error.hint
    if kind == "unavailable":
        # where the server is and what it said is for the log
        _log.warning("dependency.unavailable", reason=message)
        message, hint = _down(error)
    problem = Problem(error=kind, message=message, hint=hint or _HINTS.get(status), request_id=request_id)
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers)


def _down(error: AiHubError) -> tuple[str, str]:
    if isinstance(error, ServiceDownError):
        return f"{error.service} does not answer.", "Try again in a moment; /health/ready tells what is down."
    if isinstance(error, NotLoggedInError):
        return "MLflow does not accept the service's login.", "Tell the administrator; the log says more."
    return "The service lacks a setting.", "Tell the administrator; the log names it."


def internal(request_id: str | None) -> JSONResponse:
    """The response to a request that met a defect of ours; what it was is in the log only."""
    problem = Problem(
        error="internal",
        message="The service failed; its log says why.",
        hint="Report it with the request id.",
        request_id=request_id,
    )
    return JSONResponse(problem.model_dump(exclude_none=True), HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Make `app` answer every error as `Problem`."""

    @app.exception_handler(AiHubError)
    async def _ours(request: Request, error: AiHubError) -> JSONResponse:
        return answer(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [
            FieldProblem(field=".".join(str(part) for part in each["loc"]), problem=str(each["msg"]))
            for each in error.errors()
        ]
        named = ", ".join(dict.fromkeys(each.field for each in details))
        problems = "; ".join(f"{each.field}: {each.problem}" for each in details)
        note_reason(request.scope, "malformed", problems)
        problem = Problem(
            error="malformed",
            message=f"The request is malformed: {named}.",
            hint=_hint(request),
            details=details,
            request_id=request_id_of(request.scope),
        )
        return JSONResponse(problem.model_dump(exclude_none=True), HTTPStatus.UNPROCESSABLE_ENTITY)

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        headers = dict(error.headers or {})
        note_reason(request.scope, status.name.lower(), str(error.detail))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # the router knows the methods of one of the routes of this path only
            headers["Allow"] = ", ".join(methods_of(app, request.scope)) or headers.get("Allow", "")
        problem = Problem(
            error=status.name.lower(),
            message=f"{request.method} {request.url.path}: {error.detail}.",
            hint="See /docs for what there is.",
            request_id=request_id_of(request.scope),
        )
        return JSONResponse(problem.model_dump(exclude_none=True), status, headers)


def methods_of(app: FastAPI, scope: Any) -> list[str]:
    """Methods that `app` documents for the path of a request."""
    template = templates_of(app).of(scope["path"])
    return sorted(method.upper() for method in app.openapi()["paths"].get(template, ()))


def _hint(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and kind != "application/json" and not kind.endswith("+json"):
        return "Send the body with the header Content-Type: application/json."
    return "See `details`, and the endpoint in /docs."


def note_reason(scope: Any, kind: str, reason: str) -> None:
    """Say in the log's line about the request why it was refused."""
    scope.setdefault("state", {})["reason"] = f"{kind}: {reason}"[:_LONGEST_REASON]


def request_id_of(scope: Any) -> str | None:
    """Id of the request, as the outermost middleware has set it."""
    found = scope.get("state", {}).get("request_id")
    return None if found is None else str(found)
