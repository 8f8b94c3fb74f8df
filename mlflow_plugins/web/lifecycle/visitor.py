"""Who looks at the page, what they may do, and what their forms ask for.

A form is read within limits, and carried out once, on what its sender had before them.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs

from fastapi import Depends, Request
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.server.workspace_helpers import _get_workspace_store  # the one store of this process
from mlflow.utils.workspace_context import ServerWorkspaceContext
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.lifecycle.stages import LONGEST_REASON, checked
from mlflow_plugins.users import permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


@dataclass(frozen=True)
class Rights:
    """What the visitor may do with a model, besides looking; without both its page has no buttons."""

    #: reject and restore
    change: bool
    #: promote and roll back
    approve: bool


def tenants() -> list[str]:
    """The tenants the visitor may see, in order; without workspaces there is one."""
    if not MLFLOW_ENABLE_WORKSPACES.get():
        return [DEFAULT_WORKSPACE_NAME]
    return sorted(permissions.visible_tenants(item.name for item in _get_workspace_store().list_workspaces()))


@contextmanager
def inside(tenant: str) -> Iterator[None]:
    """Calls to MLflow's stores in this block are about `tenant`.

    Raises:
        MlflowException: 404, whether there is no such tenant or the visitor may not see it.
    """
    if tenant not in tenants():
        raise missing(f"There is no tenant {tenant}, or you may not see it.")
    with ServerWorkspaceContext(tenant):
        yield


def rights(tenant: str, model: str) -> Rights:
    """What the visitor may do with a model of a tenant they are inside."""
    change = permissions.allowed("update", model)
    return Rights(change=change, approve=change and permissions.is_approver(tenant))


ACTIONS: Final = ("promote", "reject", "restore", "rollback")
LONGEST_NAME: Final = 256
_LONGEST_BODY: Final = 100_000
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Form:
    """A move as it was typed; `seen` is the newest entry of the trail on the page it was typed into."""

    action: str
    version: int
    reason: str
    #: whom they say they are, where the server has no login
    claim: str
    seen: int
    #: the page of candidates it was sent from: those older than this version; 0 for the newest
    page: int = 0

    def check(self) -> None:
        """Refuse what no audit trail could hold.

        Raises:
            MlflowException: 400, with what to do.
        """
        if self.action not in ACTIONS:
            raise bad_input(f"Choose one of {', '.join(ACTIONS)}.")
        if not 0 < self.version <= rules.LARGEST_VERSION:
            raise bad_input("Choose a version.")
        checked("The reason", self.reason, LONGEST_REASON)
        self.checked_claim()

    def checked_claim(self) -> str:
        """Whom they say they are.

        Raises:
            MlflowException: 400, no name is that long.
        """
        return checked("The name", self.claim, LONGEST_NAME)


async def _read_form(request: Request) -> Form:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise bad_input(f"The form is larger than {_LONGEST_BODY} bytes. Shorten the reason.")
    fields = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True)

    def text(name: str) -> str:
        return fields.get(name, [""])[0].replace("\r\n", "\n").strip()

    return Form(
        text("action"),
        _number(text("version")),
        text("reason"),
        text("user"),
        _number(text("seen")),
        _number(text("page")),
    )


SubmittedForm = Annotated[Form, Depends(_read_form)]


def _number(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) else 0


#: Later than any time the audit trail has.
_NOW: Final = 2**62
TARGETS: Final = {
    "promote": rules.PRODUCTION,
    "reject": rules.ARCHIVED,
    "restore": rules.STAGING,
    "rollback": rules.PRODUCTION,
}


def carry_out(store: LifecycleStore, name: str, form: Form) -> Transition:
    """Do it, or find that it is done already: a form that is sent twice changes nothing twice.

    Returns:
        The version's transition.

    Raises:
        MlflowException: 400, 403, 404 or 409, with the whole reason.
    """
    permissions.require("update", name)
    form.check()
    if done := _done_meanwhile(store, name, form):
        return done
    try:
        if form.action == "rollback":
            return store.roll_back(name, form.version, reason=form.reason, claim=form.claim)[0]
        return store.move_version(
            name, form.version, TARGETS[form.action], reason=form.reason, claim=form.claim
        )[0]
    except MlflowException as error:
        # the same form, sent twice at the same time
        if error.get_http_status_code() == HTTPStatus.CONFLICT and (
            done := _done_meanwhile(store, name, form)
        ):
            return done
        raise


def _done_meanwhile(store: LifecycleStore, name: str, form: Form) -> Transition | None:
    """What did the same after the page was opened; None when nothing it showed has changed."""
    target = TARGETS[form.action]
    newest = next(iter(store.history(name, form.version, limit=1)), None)
    if newest is not None and newest.id > form.seen:
        if newest.to_stage == target:
            return newest
        raise _changed(newest)
    if target == rules.PRODUCTION:
        in_production = store.production_at(name, _NOW)
        if in_production is not None and in_production.id > form.seen:
            if in_production.version == form.version:
                return in_production  # by the same form, since its history was read
            raise _changed(in_production)
    return None


def _changed(since: Transition) -> MlflowException:
    return conflict(
        f"Version {since.version} has changed since you opened the page: {since.actor} moved it to "
        f"{since.to_stage}. Look at the page as it is now, then decide again."
    )
