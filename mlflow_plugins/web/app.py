"""`mlflow server --app-name ai-hub` or `ai-hub-auth`: MLflow's own application with ours mounted.

Ours stand behind the same checks as MLflow's: host and origin, login (`ai-hub-auth`), workspace.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.environment_variables import (
    MLFLOW_BASIC_AUTH_FAIL_CLOSED,
    MLFLOW_RBAC_SEED_DEFAULT_ROLES,
)
from mlflow.exceptions import MlflowException
from mlflow.server.fastapi_app import add_fastapi_workspace_middleware, create_fastapi_app
from mlflow.server.fastapi_security import init_fastapi_security
from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR

from mlflow_plugins.lifecycle import audit
from mlflow_plugins.notifications import delivery
from mlflow_plugins.settings import RegistrySettings
from mlflow_plugins.web.api import create_api
from mlflow_plugins.web.lifecycle.app import create_page
from mlflow_plugins.web.lifecycle.views import PREFIX
from mlflow_plugins.web.mount import (
    ASSISTANT,
    FrontPage,
    Mount,
    SameOrigin,
    WarmUp,
    no_assistant,
    report_nothing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from starlette.types import ASGIApp


def create_app() -> ASGIApp:
    """MLflow without login, which trusts whoever reaches it."""
    report_nothing()
    return _assemble(create_fastapi_app(), login=False)


def create_app_with_login() -> ASGIApp:
    """MLflow with its basic auth, in which ours take part."""
    report_nothing()
    # Turned off, MLflow lets every user pass where it has no check: there is none for deleting a workspace.
    MLFLOW_BASIC_AUTH_FAIL_CLOSED.set(True)
    # a tenant has our roles; MLflow's own two would not tell an approver from an engineer
    MLFLOW_RBAC_SEED_DEFAULT_ROLES.set(False)
    # both read the login's configuration when they are imported
    from mlflow.server import auth  # noqa: PLC0415

    from mlflow_plugins.web.authorization import ReadableRefusal, Reserved  # noqa: PLC0415

    with _one_at_a_time(auth.auth_config.database_uri):
        mlflow_app = auth.create_app()
    mlflow_app.add_middleware(ReadableRefusal)
    mlflow_app.add_middleware(Reserved)
    mlflow_app.add_middleware(SameOrigin)
    return _assemble(mlflow_app, login=True)


def guard(app: FastAPI, *, login: bool) -> None:
    """Put the checks of MLflow's own application before one of ours (the last one added is met first)."""
    add_fastapi_workspace_middleware(app)
    if login:
        from mlflow_plugins.web.authorization import Login, Member  # noqa: PLC0415 - imports MLflow's login

        app.add_middleware(Member)
        app.add_middleware(Login)
    app.add_middleware(SameOrigin)
    # outermost, because browsers send the preflight requests it answers without a password
    init_fastapi_security(app)


@contextmanager
def _one_at_a_time(database: str) -> Iterator[None]:
    """Let one worker of this machine after the other create the login's tables and its administrator."""
    name = hashlib.sha256(database.encode()).hexdigest()
    with Path(tempfile.gettempdir(), f"mlflow-login-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _assemble(mlflow_app: Any, *, login: bool) -> Mount:
    settings = RegistrySettings()
    audit.start_log(settings.audit_log_path)
    try:
        delivery.start()
    except MlflowException as error:
        raise SystemExit(error.message) from None
    api, page = create_api(), create_page()
    for part in (api, page):
        guard(part, login=login)
    assistant = settings.ai_hub_mlflow_assistant
    # where `mlflow server --static-prefix` puts MLflow's own pages
    prefix = os.environ.get(STATIC_PREFIX_ENV_VAR, "")
    before: dict[str, ASGIApp] = {
        "/health": WarmUp(mlflow_app),
        f"{prefix}/": FrontPage(mlflow_app, assistant=assistant),
        **({} if assistant else {f"{prefix}{ASSISTANT}": no_assistant}),
    }
    return Mount(mlflow_app, mounted={"/ai-hub": api}, pages={PREFIX: page}, before=before)
