"""One HTTP request, as the sync and the async client do it alike: headers, time-outs, retries, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from ai_hub.client.errors import BusyError, UnavailableError, of_answer, with_id
from ai_hub.errors import AiHubError, ServiceDownError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ai_hub.client.calls import Call
    from ai_hub.client.options import Options

_ATTEMPTS = 3
_LONGEST_PAUSE_S = 5.0
_CONNECT_S = 2.0
_KEEP_ALIVE_S = 30.0
REQUEST_ID = "X-Request-ID"

Answer = TypeVar("Answer", bound="BaseModel")
_pause = wait_exponential_jitter(initial=0.1, max=2.0, jitter=0.2)


def connection(options: Options) -> dict[str, Any]:
    """Arguments of `httpx.Client` and `httpx.AsyncClient`."""
    return {
        "base_url": options.url,
        "headers": options.headers,
        "limits": httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
    }


def retries() -> dict[str, Any]:
    """Arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""
    return {
        "stop": stop_after_attempt(_ATTEMPTS),
        "wait": _wait,
        "retry": retry_if_exception(_is_worth_repeating),
        "reraise": True,
    }


def request(options: Options, call: Call[Answer], request_id: str) -> dict[str, Any]:
    """Arguments of `httpx.Client.request`."""
    patience = options.timeout_s + call.waits_s
    return {
        "method": call.method,
        "url": call.path,
        "params": call.query,
        "json": call.body,
        "headers": {REQUEST_ID: request_id},
        "timeout": httpx.Timeout(patience, connect=min(_CONNECT_S, patience)),
    }


def answer(options: Options, call: Call[Answer], response: httpx.Response, request_id: str) -> Answer:
    """The value of a response.

    Raises:
        AiHubError: by the kind of the answer, with the service's text and the request id.
    """
    if not response.is_success:
        raise of_answer(response, options.url, request_id)
    try:
        return call.parse(response.content)
    except AiHubError as error:
        raise with_id(error, request_id) from error.__cause__


def failure(options: Options, error: httpx.HTTPError, request_id: str) -> AiHubError:
    """What a request without an answer means."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        # not repeated: it would take as long again
        slow = ServiceDownError("AI Hub", options.url, "no answer in time")
        return with_id(slow, request_id)
    reason = str(error) or type(error).__name__
    return with_id(
        UnavailableError(
            f"AI Hub at {options.url} does not answer: {reason}",
            options.url,
            hint="Is `ai-hub serve` running there? See AI_HUB_API_URL.",
        ),
        request_id,
    )


def _is_worth_repeating(error: BaseException) -> bool:
    return isinstance(error, UnavailableError) or (
        isinstance(error, BusyError) and error.retry_after_s is not None
    )


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    after = error.retry_after_s if isinstance(error, UnavailableError | BusyError) else None
    return min(_pause(state) if after is None else after, _LONGEST_PAUSE_S)
