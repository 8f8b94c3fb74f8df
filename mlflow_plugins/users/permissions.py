"""Who is asking, and what they may do, asked of MLflow's own grants.

Who is asking is the authenticated user, else whom the client claims to be, else honestly unknown. Without
MLflow's login (app `ai-hub`, or a store opened in process) nobody is asked for a name, and everything is
allowed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import unquote

import flask
from mlflow.exceptions import MlflowException

from mlflow_plugins.errors import forbidden
from mlflow_plugins.settings import current_settings
from mlflow_plugins.users.header import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


#: Header in which a script of ours lets MLflow's pages send the comment of the stage dialog, percent-encoded.
REASON_HEADER: Final = "X-AI-Hub-Reason"
#: Version tags that the next transition consumes: the way to say it in a page that sends no header.
REASON_TAG: Final = "promotion.reason"
ACTOR_TAG: Final = "promotion.user"

#: Where MLflow's auth app leaves the name it has checked.
_MLFLOW_USER: Final = "mlflow_authenticated_user"
_LONGEST: Final = 256

#: Whom our own routes, which are not Flask's, have authenticated.
_current_user: ContextVar[str | None] = ContextVar("authenticated_user", default=None)
#: What the header of such a request says.
_header: ContextVar[str | None] = ContextVar("user_header", default=None)


class Actor(NamedTuple):
    """A name and how far it can be trusted."""

    name: str
    #: `delegated`: named by an account that may speak for others, which has authenticated it
    source: Literal["authenticated", "delegated", "claimed", "unknown"]


UNKNOWN: Final = Actor("unknown", "unknown")


@contextmanager
def logged_in(name: str, header: str | None = None) -> Iterator[None]:
    """Everything in this block (and the threads it hands its context to) is done by user `name`.

    `header` is what the request's `HEADER` says, as it was sent.
    """
    user, said = _current_user.set(name), _header.set(header)
    try:
        yield
    finally:
        _current_user.reset(user)
        _header.reset(said)


def authenticated_user() -> str | None:
    """The user whose password (or whatever MLflow's login was configured to take) has been checked."""
    name = _current_user.get()
    if name is None and flask.has_request_context():
        name = flask.g.get(_MLFLOW_USER)
    return name


def current_actor(claim: str | None = None) -> Actor:
    """The user of this request; `claim` counts only when nobody is logged in and no header names one.

    Of an account that may speak for others, the header names the user.
    """
    user = authenticated_user()
    said = _header.get()
    if flask.has_request_context():
        said = flask.request.headers.get(HEADER)
    named = (user_of_header(said) or "").strip()
    if user is not None:
        if named and user in delegates():
            return Actor(named[:_LONGEST], "delegated")
        return Actor(user[:_LONGEST], "authenticated")
    claim = named or claim
    return claimed(claim) if claim else UNKNOWN


@lru_cache(maxsize=1)
def delegates() -> frozenset[str]:
    """Accounts of MLflow's login that may speak for others."""
    return frozenset(name.strip() for name in current_settings().ai_hub_delegates.split(",")) - {""}


def reason_of_request() -> str | None:
    """The reason that a request of MLflow's pages gives; None for none."""
    said = flask.request.headers.get(REASON_HEADER) if flask.has_request_context() else None
    return unquote(said) if said else None


def claimed(name: str) -> Actor:
    """Somebody who is only said to be `name`."""
    return Actor(name[:_LONGEST], "claimed")


def user_of_header(value: str | None) -> str | None:
    """The name in the header, which is percent-encoded because headers carry ASCII only."""
    return unquote(value) if value else None


Action = Literal["read", "update", "delete"]

EXPERIMENT: Final = "experiment"
MODEL: Final = "registered_model"
VERSION: Final = "registered_model_version"
_WORKSPACE: Final = "workspace"
#: Every resource of a type, in MLflow's grants.
EVERY: Final = "*"


def allowed(action: Action, model: str) -> bool:
    """Whether the user may do this to versions of a model of the current tenant, now or in the past.

    The same question MLflow's own routes ask about a version, except that it is asked of the tenant instead
    of the model, so that it has an answer for the audit trail of a deleted model, too.
    """
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return True
    from mlflow.server.auth.requirements import ACTION_NOT_DENIED, Requirement  # noqa: PLC0415 - with login only

    model_read = Requirement(MODEL, model, "read")
    on_version = (
        Requirement(VERSION, EVERY, ACTION_NOT_DENIED)
        if action == "read"
        else Requirement(VERSION, EVERY, action, fallback_if_no_grant=((MODEL, model),))
    )
    return bool(auth.authorize(user.username, (_WORKSPACE, EVERY), [model_read, on_version]))


def require(action: Action, model: str) -> None:
    """Refuse what `allowed` does not allow.

    Raises:
        MlflowException: 403.
    """
    if not allowed(action, model):
        raise forbidden(f"You may not {action} model {model}. Ask the platform's administrator for a role.")


def readable(models: Iterable[str]) -> list[str]:
    """Those of `models` of the current tenant that the user may read, from one query of the grants."""
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return list(models)
    from mlflow.server.auth.requirements import ACTION_NOT_DENIED, Requirement  # noqa: PLC0415 - with login only

    asked = [Requirement(MODEL, EVERY, "read"), Requirement(VERSION, EVERY, ACTION_NOT_DENIED)]
    gate = auth.retention_gate(user.username, (_WORKSPACE, EVERY), asked)
    return [model for model in models if gate.retains(VERSION) and gate.retains(MODEL, model)]


def may_read_files(kind: Literal["run", "logged_model"], experiment: str) -> bool:
    """Whether the user may read runs, or logged models, of an experiment: what MLflow's own routes ask."""
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return True
    from mlflow.server.auth.requirements import Requirement  # noqa: PLC0415 - with login only

    parent = (EXPERIMENT, experiment)
    asked = [
        Requirement(*parent, "read"),
        Requirement(kind, EVERY, "read", fallback_if_no_grant=(parent,)),
    ]
    return bool(auth.authorize(user.username, parent, asked))


def require_creator(kind: str) -> None:
    """Refuse to create a resource for whoever may not change every one of this type in the current tenant.

    Raises:
        MlflowException: 403.
    """
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return
    from mlflow.server.auth.requirements import Requirement  # noqa: PLC0415 - with login only

    if not auth.authorize(user.username, (_WORKSPACE, EVERY), [Requirement(kind, EVERY, "update")]):
        name = kind.replace("_", " ")
        raise forbidden(
            f"You may not create a new {name} in this tenant: that takes the role of an engineer."
        )


def is_admin() -> bool:
    """Whether the user is the administrator of the whole platform."""
    auth = _login()
    return auth is None or bool(_account(auth).is_admin)


def require_admin() -> None:
    """Refuse what only the administrator of the whole platform may do.

    Raises:
        MlflowException: 403.
    """
    if not is_admin():
        raise forbidden("Only the administrator of the platform may do that.")


def forget(tenant: str) -> None:
    """Take every role in a tenant away: nobody of a former one is anybody in the next of that name."""
    auth = _login()
    if auth is not None:
        auth.store.delete_workspace_permissions_for_workspace(tenant)
        auth.store.delete_roles_for_workspace(tenant)


def visible_tenants(tenants: Iterable[str]) -> list[str]:
    """Those of `tenants` in which the user has a role (all without login, and for the administrator)."""
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return list(tenants)
    own = set(auth.store.list_accessible_workspace_names(user.username))
    return [tenant for tenant in tenants if tenant in own]


def is_member(tenant: str) -> bool:
    """Whether the user has a role in a tenant."""
    return bool(visible_tenants([tenant]))


def is_approver(tenant: str) -> bool:
    """Whether the user may move versions of a tenant into and out of Production.

    That takes MANAGE on every version of the tenant, which no user ever gets by creating something; MLflow
    makes creators managers of their own models, so a grant on the model says nothing.
    """
    auth = _login()
    if auth is None or (user := _account(auth)).is_admin:
        return True
    from mlflow.server.auth.permissions import GrantLoadKey  # noqa: PLC0415 - with login only

    (permission,) = auth.resolve_permissions(user.username, tenant, [GrantLoadKey(VERSION, EVERY)])
    return permission is not None and permission.can_manage


def require_approver(tenant: str) -> None:
    """Refuse to move a version into or out of Production for anybody but an approver.

    Raises:
        MlflowException: 403, naming who can.
    """
    if is_approver(tenant):
        return
    names = approvers(tenant)
    who = f"Ask {' or '.join(names)}" if names else "Nobody has this role yet: ask the administrator"
    raise forbidden(
        f"Only an approver of tenant {tenant} may move a version into or out of Production. {who}."
    )


def approvers(tenant: str) -> list[str]:
    """Names of the users with the role of an approver; none without login."""
    auth = _login()
    if auth is None:
        return []
    assigned = {
        assignment.user_id
        for role in auth.store.list_roles([tenant])
        if any(_makes_approver(grant) for grant in role.permissions)
        for assignment in auth.store.list_role_users(role.id)
    }
    return sorted(user.username for user in auth.store.list_users() if user.id in assigned)


def _makes_approver(grant: Any) -> bool:
    return (grant.resource_type, grant.resource_pattern, grant.permission) == (VERSION, EVERY, "MANAGE")


def _login() -> Any:
    """MLflow's auth module when this process runs its login, else None."""
    auth = sys.modules.get("mlflow.server.auth")
    return auth if auth is not None and auth.is_auth_enabled() else None


def _account(auth: Any) -> Any:
    name = authenticated_user()
    try:
        if name is not None:
            return auth.store.get_user(name)
    except MlflowException:
        pass  # deleted since the login
    raise forbidden("Nobody is logged in, and this server does nothing for people it does not know.")
