"""Adopting a registry that plain MLflow made: on its database, while no server of ours runs on it."""

from __future__ import annotations

import getpass
import os
import re
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mlflow
import sqlalchemy as sa
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_ENABLE_WORKSPACES,
    MLFLOW_REGISTRY_URI,
)
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _verify_schema  # what MLflow's tracking store asks first
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_context import ServerWorkspaceContext

from ai_hub.errors import AiHubError, BadInputError, NotFoundError
from ai_hub.registry.server import readable_errors
from ai_hub.settings import Settings
from mlflow_plugins.adoption.adopting import Adoption
from mlflow_plugins.adoption.plan import ModelPlan, VersionPlan
from mlflow_plugins.artifacts import destination
from mlflow_plugins.artifacts.destination import SCHEME
from mlflow_plugins.artifacts.s3 import S3_SETTINGS
from mlflow_plugins.store.lifecycle_store import SCHEME_PREFIX, LifecycleStore
from mlflow_plugins.users.permissions import UNKNOWN, Actor, claimed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.artifacts.destination import Destination

__all__ = ["ModelPlan", "VersionPlan", "adopt"]

#: Name and password in an address.
_LOGIN: Final = re.compile(r"(?<=://)[^/\s]*@")
_DATABASES: Final = ("sqlite:", "postgresql:", "postgresql+")


def adopt(
    registry: str,
    backend: str | None,
    *,
    artifacts_destination: str | None,
    default_artifact_root: str | None = None,
    workspaces: bool,
    tenant: str | None = None,
    dry_run: bool = False,
) -> Iterator[ModelPlan]:
    """Adopt one model after the other, and say what became of it (`dry_run`: only say what would).

    Args:
        registry: address of the registry's database, with or without `lifecycle+`.
        backend: that of runs and logged models; default: the same.
        artifacts_destination: that of the server that is going to use it; it serves artifacts.
        default_artifact_root: that of a server that does not.
        workspaces: whether that server has workspaces.
        tenant: only this one's models.
        dry_run: change nothing.

    Raises:
        BadInputError: an address is missing, or is none of a database.
        NotFoundError: there is no registry, or the tenant has no models.
        SettingMissingError: the address or a key of the artifact store is not set.
        AiHubError: its tables are those of another version of MLflow; the artifact store failed.
        ConflictError: somebody changes the registry at the same time.
    """
    registry = registry.removeprefix(SCHEME_PREFIX)
    if not registry.startswith(_DATABASES):
        raise BadInputError(
            f"{registry.partition(':')[0]}: is no database.",
            hint="Give the address that `mlflow server` has: sqlite:///… or postgresql://….",
        )
    with _as_server(registry, backend or registry, workspaces=workspaces), _readable_errors():
        _require_registry(registry)
        place = _destination(artifacts_destination, default_artifact_root)
        store = LifecycleStore(registry, as_found=True)
        try:
            adoption = Adoption(store, place, _actor())
            tenants = adoption.tenants()
            if tenant is not None and tenant not in tenants:
                raise NotFoundError(
                    f"Tenant {tenant} has no registered models.",
                    hint=f"These have: {', '.join(tenants) or '-'}.",
                )
            for name in tenants if tenant is None else [tenant]:
                with ServerWorkspaceContext(name) if workspaces else nullcontext():
                    yield from adoption.plans(name) if dry_run else adoption.adopt(name)
        finally:
            store._dispose_engine()  # noqa: SLF001 - MLflow's way to close a store
            SqlAlchemyStore._engine_map.pop(registry, None)  # noqa: SLF001


def _require_registry(address: str) -> None:
    """Opening a store would make an empty registry where there is none, and change an older one."""
    url = sa.make_url(address)
    is_file = url.get_backend_name() == "sqlite"
    found = not is_file or Path(url.database or "").is_file()
    if found:
        engine = sa.create_engine(url)
        try:
            found = sa.inspect(engine).has_table(SqlRegisteredModel.__tablename__)
            if found:
                _verify_schema(engine)
        finally:
            engine.dispose()
    if not found:
        raise NotFoundError(
            f"There is no registry at {url.render_as_string(hide_password=True)}.",
            hint="Give the address that `mlflow server` has as --registry-store-uri or --backend-store-uri.",
        )


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into ours; there is no server that could be down."""
    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() < HTTPStatus.INTERNAL_SERVER_ERROR:
            with readable_errors():
                raise
        raise AiHubError(_LOGIN.sub("", str(error.message))) from error


def _destination(served: str | None, direct: str | None) -> Destination:
    if served:
        if served.startswith(f"{SCHEME}:"):
            settings = Settings()
            for name in S3_SETTINGS:
                settings.require(name.lower())
        return destination.served(served)
    if direct:
        return destination.unserved(direct)
    raise BadInputError(
        "Where are the files of registered versions going to be?",
        hint="Give --artifacts-destination as `mlflow server` is going to have it, for example minio://ml-models.",
    )


def _actor() -> Actor:
    try:
        return claimed(getpass.getuser())
    except (KeyError, OSError):  # no such user in the system, as in many containers
        return UNKNOWN


@contextmanager
def _as_server(registry: str, backend: str, *, workspaces: bool) -> Iterator[None]:
    """MLflow in this process as in a server: its databases opened directly."""
    variables = {
        # whoever runs this may be a client of another registry
        MLFLOW_REGISTRY_URI.name: registry,
        MLFLOW_ENABLE_WORKSPACES.name: "true" if workspaces else "false",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.name: "false",
        **{name: value for name, value in Settings().environment().items() if name in S3_SETTINGS},
    }
    tracking, before = mlflow.get_tracking_uri(), {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    mlflow.set_tracking_uri(backend)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(tracking)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
