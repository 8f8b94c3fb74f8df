"""How MLflow's server is reached: the address, login and certificates that MLflow's own client would use.

Without MLflow, whose import takes seconds.
"""

from __future__ import annotations

import configparser
import os
import ssl
from pathlib import Path
from typing import Any, Final

import httpx

from ai_hub.errors import BadInputError

#: Names the tenant that a request is about.
WORKSPACE_HEADER: Final = "X-MLFLOW-WORKSPACE"
#: Authorities to trust: MLflow's own name, then those that its client, `requests`, takes.
_AUTHORITIES: Final = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CERTIFICATE: Final = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_INSECURE: Final = "MLFLOW_TRACKING_INSECURE_TLS"
_LOGIN: Final = tuple(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))


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


def state() -> tuple[Any, ...]:
    """All that `connection` reads besides the address; differs when a login or a certificate has changed."""
    names = (*_AUTHORITIES, _CERTIFICATE)
    files = [_credentials(), *(Path(path) for name in names if (path := os.environ.get(name)))]
    variables = ("HOME", *_LOGIN, _INSECURE, *names, "SSL_CERT_FILE", "SSL_CERT_DIR")
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
