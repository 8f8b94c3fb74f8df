"""Talking to the MLflow server: one address, our errors, no minutes of silent retries.

It is reached by the address, login and certificates that MLflow's own client would use. What a command asks
goes by `call`, because importing MLflow takes seconds. `connect` is for those that need MLflow's own client.
"""

from __future__ import annotations

import configparser
import os
import re
import ssl
import sys
import time
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLoggedInError,
    ServiceDownError,
)
from ai_hub.names import check_workspace
from ai_hub.servers import require_connection
from ai_hub.settings import Settings
from mlflow_plugins.users.header import user_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

    Response = Any  # of httpx, and of requests in MLflow's own client; used alike


#: Names the tenant that a request is about.
WORKSPACE_HEADER: Final = "X-MLFLOW-WORKSPACE"
#: Authorities to trust: MLflow's own name, then those that its client, `requests`, takes.
_AUTHORITIES: Final = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CERTIFICATE: Final = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_INSECURE: Final = "MLFLOW_TRACKING_INSECURE_TLS"
_LOGIN_VARIABLES: Final = tuple(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))


def connection(url: str) -> tuple[str, dict[str, Any]]:
    """The address without a login, which httpx would log, and arguments of `httpx.Client`.

    A login in the address wins over others, as for MLflow's own client.

    Raises:
        BadInputError: it is no URL, or a certificate cannot be read.
    """
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        # its text may hold a part of the password
        raise BadInputError("The registry's address is no URL.", hint="See MLFLOW_TRACKING_URI.") from None
    bare = str(found.copy_with(userinfo=b"")).rstrip("/")
    login = {"auth": (found.username, found.password)} if found.username and found.password else _login()
    return bare, {"base_url": bare, "verify": tls(), **login}


def login_state() -> tuple[Any, ...]:
    """All that `connection` reads besides the address; differs when a login or a certificate has changed."""
    names = (*_AUTHORITIES, _CERTIFICATE)
    files = [_credentials(), *(Path(path) for name in names if (path := os.environ.get(name)))]
    variables = ("HOME", *_LOGIN_VARIABLES, _INSECURE, *names, "SSL_CERT_FILE", "SSL_CERT_DIR")
    return (*map(os.environ.get, variables), *map(_changed, files))


def _changed(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _credentials() -> Path:
    return Path.home() / ".mlflow/credentials"


def _login() -> dict[str, Any]:
    """The login of the environment, else of MLflow's file; a token counts where neither has one."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(_credentials())
    known = dict(parser["mlflow"]) if parser.has_section("mlflow") else {}
    name, password = (
        os.environ.get(variable) or known.get(variable.lower())
        for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    if name and password:
        return {"auth": (name, password)}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"headers": {"Authorization": f"Bearer {token}"}} if token else {}


def tls() -> ssl.SSLContext:
    """How the server's certificate is checked, and which one is shown to it.

    Raises:
        BadInputError: a file of certificates cannot be read.
    """
    name = next((name for name in _AUTHORITIES if os.environ.get(name)), None)
    is_checked = os.environ.get(_INSECURE, "").lower() not in {"true", "1"}
    try:
        if name is not None and is_checked:
            path = os.environ[name]
            is_folder = Path(path).is_dir()
            context = ssl.create_default_context(
                cafile=None if is_folder else path, capath=path if is_folder else None
            )
        else:
            context = httpx.create_ssl_context(verify=is_checked)
        if certificate := os.environ.get(name := _CERTIFICATE):
            context.load_cert_chain(certificate)
    except OSError as error:
        raise BadInputError(f"The certificates of {name} cannot be read: {error}.") from error
    return context


_KINDS: dict[int, type[AiHubError]] = {
    HTTPStatus.BAD_REQUEST: BadInputError,
    HTTPStatus.UNPROCESSABLE_ENTITY: BadInputError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.FORBIDDEN: ForbiddenError,
}
#: All that MLflow's login says.
_BARE_REFUSAL: Final = "Permission denied"
#: Name and password in an address.
_LOGIN_IN_ADDRESS: Final = re.compile(r"(?<=://)[^/\s]*@")

API: Final = "/api/2.0/mlflow"
#: MLflow's name of tenants.
WORKSPACES: Final = "/api/3.0/mlflow/workspaces"
#: Answers after which MLflow's own client asks again, too.
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
#: MLflow's defaults of `MLFLOW_HTTP_REQUEST_…`.
_TIMEOUT_S: Final = 120.0
_RETRIES: Final = 7
_BACKOFF: Final = 2.0
_LONGEST_PAUSE_S: Final = 120.0
#: Logins that only MLflow's own client knows, by the variable that asks for them.
_OTHER_LOGINS: Final = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")


#: What MLflow keeps for its addresses.
_RESERVED: Final = frozenset({"workspaces", "api", "ajax-api", "static-files"})


class NoSuchRouteError(NotFoundError):
    """The server does not know this address."""


def tracking_uri() -> str:
    """Address of the MLflow server.

    Raises:
        SettingMissingError: it is not set.
    """
    return Settings().require("mlflow_tracking_uri")


def check_name(tenant: str) -> None:
    """Refuse a name that no workspace can have.

    Raises:
        BadInputError: it breaks the rule of names, or MLflow keeps it for itself.
    """
    check_workspace(tenant)
    if tenant in _RESERVED:
        raise BadInputError(
            f"{tenant!r} cannot be a tenant: MLflow keeps the name for its own addresses.",
            hint="Choose another, for example city-works.",
        )


def require_server() -> None:
    """Make sure that the server answers: `call` would try for minutes before it says so.

    Raises:
        ServiceDownError: it does not.
    """
    require_connection("MLflow", tracking_uri())


def connect() -> MlflowClient:
    """MLflow's own client of a server that answers.

    Raises:
        ServiceDownError: it does not.
    """
    require_server()
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds

    uri = tracking_uri()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def needs_own_client() -> bool:
    """Whether the environment asks for a login that only MLflow's own client knows."""
    return any(os.environ.get(name) for name in _OTHER_LOGINS)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into ours; the server's text stays whole."""
    try:
        yield
    except Exception as error:
        if readable := _readable(error):
            raise readable from error
        raise


def _readable(error: Exception) -> AiHubError | None:
    """Ours for an exception of MLflow's; only a library that is loaded can have raised one."""
    mlflow, requests = (sys.modules.get(name) for name in ("mlflow.exceptions", "requests"))
    if (kind := getattr(mlflow, "MlflowException", None)) is not None and isinstance(error, kind):
        # RestException puts the code before the server's text
        text = str(error.message).removeprefix(f"{error.error_code}: ")
        return _error(error.get_http_status_code(), text)
    if requests is not None and isinstance(error, requests.HTTPError) and error.response is not None:
        return _error_of(error.response)  # of the artifact proxy
    return None


def call(
    method: str,
    path: str,
    *,
    tenant: str | None = None,
    json: Any = None,
    params: Any = None,
    timeout: float | None = None,
    max_retries: int | None = None,
) -> dict[str, Any]:
    """Call a route of the server; returns what it answers.

    Args:
        method: of HTTP.
        path: of the route.
        tenant: whom it is about; default: that of `tenant_scope`, else of `MLFLOW_WORKSPACE`.
        json: body.
        params: of the query.
        timeout: seconds; default: MLflow's, `MLFLOW_HTTP_REQUEST_TIMEOUT`.
        max_retries: default: MLflow's, `MLFLOW_HTTP_REQUEST_MAX_RETRIES`.

    Raises:
        AiHubError: by the kind of the answer, with the server's text.
    """
    response = _send(method, path, tenant, timeout, max_retries, json=json, params=params)
    if response.status_code in {HTTPStatus.OK, HTTPStatus.CREATED}:
        try:
            return dict(response.json())
        except ValueError as error:  # the page of a proxy's login, for example
            raise ServiceDownError("MLflow", address(), "its answer is no JSON") from error
    if response.status_code == HTTPStatus.NO_CONTENT:
        return {}
    raise _error_of(response)


@contextmanager
def stream(path: str, tenant: str) -> Iterator[Iterator[bytes]]:
    """The bytes that a route answers, in chunks; what fails before the first one is asked for again.

    Raises:
        AiHubError: as for `call`.
    """
    response = _send("GET", path, tenant, stream=True)
    try:
        if response.status_code != HTTPStatus.OK:
            response.read()
            raise _error_of(response)
        try:
            yield response.iter_bytes(1 << 20)
        except httpx.RequestError as error:
            raise _no_answer(error) from error
    finally:
        response.close()


def _send(
    method: str,
    path: str,
    tenant: str | None,
    timeout: float | None = None,
    max_retries: int | None = None,
    *,
    stream: bool = False,
    **content: Any,
) -> Response:
    if needs_own_client():
        return _send_by_mlflow(method, path, tenant, timeout=timeout, max_retries=max_retries, **content)
    # a workspace's own address names it
    workspace = None if path.startswith(WORKSPACES) else tenant or _current_tenant()
    headers = {**user_header(), **({WORKSPACE_HEADER: workspace} if workspace else {})}
    client = _client(os.getpid(), tracking_uri(), login_state())
    seconds = timeout or float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or _TIMEOUT_S)
    if max_retries is None:
        max_retries = int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") or _RETRIES)
    for retry in range(max_retries + 1):
        request = client.build_request(method, path, headers=headers, timeout=seconds, **content)
        try:
            response = client.send(request, stream=stream)
        except httpx.RequestError as error:
            if retry == max_retries or not isinstance(error, httpx.TransportError):
                raise _no_answer(error) from error
            after = None
        else:
            if response.status_code not in _TRANSIENT or retry == max_retries:
                return response
            after = response.headers.get("Retry-After")
            response.close()
        time.sleep(_pause_s(retry, after))
    raise AssertionError("the last try returns or raises")


def _current_tenant() -> str | None:
    # the scope is MLflow's own, so where that is not loaded there is none
    scopes = sys.modules.get("mlflow.utils.workspace_context")
    # while another thread imports it, it has no functions yet
    current = getattr(scopes, "get_request_workspace", None)
    return current() if current else os.environ.get("MLFLOW_WORKSPACE")


@lru_cache(maxsize=4)
def _client(process: int, uri: str, login_state: tuple[Any, ...]) -> httpx.Client:
    """Kept because reading the machine's certificates takes longer than a request.

    Its connections are not: a server that closes an idle one may do so just when it is used again.
    """
    del process, login_state  # in another process, or with another login, it is another client
    _, options = connection(uri)
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), follow_redirects=True, **options)


def _pause_s(retry: int, after: str | None) -> float:
    if after is not None and after.isdecimal():
        return min(float(after), _LONGEST_PAUSE_S)
    # at once, then by and by
    factor = float(os.environ.get("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR") or _BACKOFF)
    return min(factor * 2**retry, _LONGEST_PAUSE_S) if retry else 0.0


def address() -> str:
    """Address of the MLflow server, without a login that may be in it."""
    return connection(tracking_uri())[0]


def _no_answer(error: httpx.RequestError) -> ServiceDownError:
    reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
    return ServiceDownError("MLflow", address(), reason or type(error).__name__)


def _send_by_mlflow(method: str, path: str, tenant: str | None, **arguments: Any) -> Response:
    """The same by MLflow's own client, which knows further logins."""
    from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415  # takes seconds
    from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

    headers = {WORKSPACE_HEADER: tenant} if tenant else None
    login = get_default_host_creds(tracking_uri())
    with readable_errors():
        return http_request(login, path, method, raise_on_status=False, extra_headers=headers, **arguments)


def model_path(model: str) -> str:
    """Where our routes about a model begin."""
    return f"/ai-hub/api/models/{quote(model, safe='')}"


def _error_of(response: Response) -> AiHubError:
    try:
        body = response.json()
    except ValueError:
        # MLflow's own errors are JSON; a path that leads nowhere gets Flask's page
        if response.status_code == HTTPStatus.NOT_FOUND:
            return NoSuchRouteError()
        return _error(response.status_code, response.text or f"status {response.status_code}")
    said = body.get("message") or body.get("detail") or f"status {response.status_code}"
    return _error(response.status_code, str(said))


def _error(status: int, message: str) -> AiHubError:
    # MLflow's client quotes the address it asked, with a login that is in it
    message = _LOGIN_IN_ADDRESS.sub("", message)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServiceDownError("MLflow", address(), message)
    if status == HTTPStatus.UNAUTHORIZED:
        return NotLoggedInError(address())
    if status == HTTPStatus.FORBIDDEN and _BARE_REFUSAL in message:
        return ForbiddenError(hint="Ask the administrator for a role in the tenant (see docs/people.md).")
    return _KINDS.get(status, AiHubError)(message)
