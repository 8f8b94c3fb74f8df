"""What both clients share of HTTP: address and key, headers, time-outs, retries, errors, received files."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from ai_hub.client.errors import BusyError, UnavailableError, error_of_response, with_id
from ai_hub.errors import AiHubError, BadInputError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel, SecretStr

    from ai_hub.client.endpoints import Call, Download
    from ai_hub.settings import Settings


_DEFAULT_URL = "http://127.0.0.1:8003"
_ATTEMPTS = 3
_LONGEST_PAUSE_S = 5.0
_CONNECT_S = 2.0
_KEEP_ALIVE_S = 30.0
REQUEST_ID = "X-Request-ID"

Answer = TypeVar("Answer", bound="BaseModel")
_pause = wait_exponential_jitter(initial=0.1, max=2.0, jitter=0.2)


@dataclass(frozen=True)
class Options:
    """Address, tenant, time-out and key of a client; the key is in no text."""

    url: str
    tenant: str
    timeout_s: float
    _key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; logs of httpx leave out this header's value."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}


def resolve_options(
    settings: Settings,
    *,
    url: str | None = None,
    api_key: str | SecretStr | None = None,
    tenant: str | None = None,
    timeout_s: float,
) -> Options:
    """Options from the arguments, or else from the settings.

    Raises:
        BadInputError: no tenant is given, or a value cannot be one.
    """
    tenant = tenant or settings.ai_hub_tenant
    if not tenant:
        raise BadInputError("No tenant is given.", hint="Give tenant=…, or set AI_HUB_TENANT.")
    key = api_key if api_key is not None else settings.ai_hub_api_key
    clear = key if isinstance(key, str) or key is None else key.get_secret_value()
    return Options(_address(url or settings.ai_hub_api_url or _DEFAULT_URL), tenant, timeout_s, _key(clear))


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInputError("The service's address is no URL.", hint="Use one such as http://127.0.0.1:8003.")
    if parts.username or parts.password:
        raise BadInputError("The service's address holds a login.", hint="Give the key as api_key.")
    return url.rstrip("/")


def _key(key: str | None) -> str | None:
    """The key without the line end of the file it may come from."""
    key = (key or "").strip()
    # the HTTP library would quote what it refuses
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadInputError("The API key holds characters that no key has.", hint="Copy it again.")
    return key or None


def client_arguments(options: Options) -> dict[str, Any]:
    """Arguments of `httpx.Client` and `httpx.AsyncClient`."""
    return {
        "base_url": options.url,
        "headers": options.headers,
        "limits": httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
    }


def retry_arguments() -> dict[str, Any]:
    """Arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""
    return {
        "stop": stop_after_attempt(_ATTEMPTS),
        "wait": _wait,
        "retry": retry_if_exception(_is_retryable),
        "reraise": True,
    }


def request_arguments(options: Options, call: Call[Answer], request_id: str) -> dict[str, Any]:
    """Arguments of `httpx.Client.request`."""
    timeout_s = options.timeout_s + call.waits_s
    return {
        "method": call.method,
        "url": call.path,
        "params": call.query,
        "json": call.body,
        "headers": {REQUEST_ID: request_id},
        "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
    }


def parse_response(options: Options, call: Call[Answer], response: httpx.Response, request_id: str) -> Answer:
    """The value of a response.

    Raises:
        AiHubError: by the kind of the answer, with the service's text and the request id.
    """
    if not response.is_success:
        raise error_of_response(response, options.url, request_id)
    try:
        return call.parse(response.content)
    except AiHubError as error:
        raise with_id(error, request_id) from error.__cause__


def transport_error(options: Options, error: httpx.HTTPError, request_id: str) -> AiHubError:
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


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, UnavailableError) or (
        isinstance(error, BusyError) and error.retry_after_s is not None
    )


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    after = error.retry_after_s if isinstance(error, UnavailableError | BusyError) else None
    return min(_pause(state) if after is None else after, _LONGEST_PAUSE_S)


def download_arguments(options: Options, download: Download, request_id: str) -> dict[str, Any]:
    """Arguments of `httpx.Client.stream`."""
    return {
        "method": "GET",
        "url": download.path,
        "params": download.query,
        "headers": {REQUEST_ID: request_id},
        "timeout": options.timeout_s,
        # the S3 store's own address; httpx leaves the key out at another host
        "follow_redirects": True,
    }


@contextmanager
def receiving(download: Download, response: httpx.Response) -> Iterator[Callable[[bytes], None]]:
    """A function that takes the file's bytes; the file appears at `download.to` at the end of the block.

    Raises:
        AiHubError: its length or its SHA-256 is not what the service said.
    """
    download.to.parent.mkdir(parents=True, exist_ok=True)
    partial = download.to.with_name(f".{download.to.name}.{secrets.token_hex(4)}.partial")
    digest, size = hashlib.sha256(), 0

    def write(data: bytes) -> None:
        nonlocal size
        size += len(data)
        digest.update(data)
        file.write(data)

    try:
        with partial.open("xb") as file:
            yield write
        length = response.headers.get("content-length")
        if (length is not None and size != int(length)) or (
            download.sha256 is not None and digest.hexdigest() != download.sha256
        ):
            raise AiHubError(f"{download.to.name} was not received in full.", hint="Fetch it again.")
        partial.replace(download.to)
    finally:
        partial.unlink(missing_ok=True)
