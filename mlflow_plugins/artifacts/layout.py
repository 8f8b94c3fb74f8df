"""Where files are: the fixed layout of the bucket, and the proxy paths that lead there.

    bucket key                                   proxy path (`mlflow-artifacts:/…`)
    {tenant}/{model}/{semantic version}/…        workspaces/{tenant}/.models/{model}/{semantic version}/…
    {tenant}/.runs/{experiment}/{run}/…          workspaces/{tenant}/{experiment}/{run}/…

The tenant `default` (and every path when workspaces are off) has no `workspaces/default/` in front, as in
MLflow itself. Model names start with a letter or digit, so `.runs` and `.models` never meet a model.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from mlflow.utils.validation import _validate_model_name  # what MLflow's own stores ask first
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME, WORKSPACES_DIR_NAME

from mlflow_plugins.errors import bad_input

MODELS_DIR: Final = ".models"
RUNS_DIR: Final = ".runs"
#: A registered version's folder is this deep below the tenant's models: model, semantic version.
VERSION_DEPTH: Final = 2
_PROXY_ROUTE: Final = "/api/2.0/mlflow-artifacts/artifacts/"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ProxyPath(NamedTuple):
    """A path under the artifact proxy, taken apart."""

    tenant: str
    #: Whether `parts` start at the tenant's registered models (else at its runs).
    registered: bool
    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key in the bucket, without a trailing slash."""
        return "/".join((self.tenant, *(() if self.registered else (RUNS_DIR,)), *self.parts))


def check_model_name(name: str) -> None:
    """Refuse names that could not be one folder of the bucket.

    Raises:
        MlflowException: 400.
    """
    if not name:
        _validate_model_name(name)
    if not _MODEL_NAME.fullmatch(name):
        raise bad_input(
            f"Model name {name!r} is not allowed because it names the folder of the model's artifacts. "
            "Use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit."
        )


def tenant_path(tenant: str) -> str:
    """The proxy path of all that is a tenant's (not `default`)."""
    return f"{WORKSPACES_DIR_NAME}/{tenant}"


def version_path(tenant: str, model: str, semantic_version: str) -> str:
    """The proxy path of a registered version's folder."""
    check_model_name(model)
    path = f"{MODELS_DIR}/{model}/{semantic_version}"
    return path if tenant == DEFAULT_WORKSPACE_NAME else f"{WORKSPACES_DIR_NAME}/{tenant}/{path}"


def parse_proxy_path(path: str | None, *, workspaces: bool) -> ProxyPath:
    """Take a path under the artifact proxy apart.

    Raises:
        MlflowException: 400 for a path that leaves its folder or names no workspace.
    """
    parts = tuple(part for part in (path or "").split("/") if part not in {"", "."})
    if ".." in parts or "\\" in (path or ""):
        raise bad_input("Artifact paths must not contain '..' or a backslash.")
    tenant = DEFAULT_WORKSPACE_NAME
    if workspaces and parts[:1] == (WORKSPACES_DIR_NAME,):
        if len(parts) == 1:
            raise bad_input("An artifact path under 'workspaces/' must name its workspace.")
        tenant, parts = parts[1], parts[2:]
    if parts[:1] == (MODELS_DIR,):
        return ProxyPath(tenant, registered=True, parts=parts[1:])
    return ProxyPath(tenant, registered=False, parts=parts)


def proxied_path(uri: str) -> str | None:
    """The path under the artifact proxy that `uri` names, or None when it names something else."""
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return unquote(parts.path).lstrip("/")
    if parts.scheme in {"http", "https"} and _PROXY_ROUTE in parts.path:
        return unquote(parts.path.split(_PROXY_ROUTE, 1)[1]).lstrip("/")
    return None
