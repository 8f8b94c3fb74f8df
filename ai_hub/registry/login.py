"""How MLflow's server is reached: the address, login and certificates that MLflow's own client would use.

Without MLflow, whose import takes seconds.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any, Final

import httpx

from ai_hub.errors import BadInputError

#: Names the tenant that a request is about.
WORKSPACE_HEADER: Final = "X-MLFLOW-WORKSPACE"


def connection(url: str) -> tuple[str, dict[str, Any]]:
    """The address without a login, which httpx would log, and arguments of `httpx.Client`.

    A login in the address wins over others, as for MLflow's own client.

    Raises:
        BadInputError: it is no URL.
    """
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        # its text may hold a part of the password
        raise BadInputError("The registry's address is no URL.", hint="See MLFLOW_TRACKING_URI.") from None
    bare = str(found.copy_with(userinfo=b"")).rstrip("/")
    login = {"auth": (found.username, found.password)} if found.username and found.password else _login()
    options = {"base_url": bare, "verify": _verify(), **login}
    if certificate := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        options["cert"] = certificate
    return bare, options


def _login() -> dict[str, Any]:
    """The login of the environment, else of MLflow's file; a token counts where neither has one."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(Path.home() / ".mlflow/credentials")
    known = dict(parser["mlflow"]) if parser.has_section("mlflow") else {}
    name, password = (
        os.environ.get(variable) or known.get(variable.lower())
        for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    if name and password:
        return {"auth": (name, password)}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"headers": {"Authorization": f"Bearer {token}"}} if token else {}


def _verify() -> bool | str:
    """How the server's certificate is checked."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
