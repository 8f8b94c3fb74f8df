"""Carrying out what a form asks for: once, and only on what its sender had before them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.errors import conflict
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.users import permissions

if TYPE_CHECKING:
    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.forms import Wish

#: Later than any time the audit trail has.
_NOW: Final = 2**62
TARGETS: Final = {
    "promote": rules.PRODUCTION,
    "reject": rules.ARCHIVED,
    "restore": rules.STAGING,
    "rollback": rules.PRODUCTION,
}


def carry_out(store: LifecycleStore, name: str, wish: Wish) -> Transition:
    """Do it, or find that it is done already: a form that is sent twice changes nothing twice.

    Returns:
        The version's transition.

    Raises:
        MlflowException: 400, 403, 404 or 409, with the whole reason.
    """
    permissions.require("update", name)
    wish.check()
    if done := _done_meanwhile(store, name, wish):
        return done
    try:
        if wish.action == "rollback":
            return store.roll_back(name, wish.version, reason=wish.reason, claim=wish.claim)[0]
        return store.move_version(
            name, wish.version, TARGETS[wish.action], reason=wish.reason, claim=wish.claim
        )[0]
    except MlflowException as error:
        # the same form, sent twice at the same time
        if error.get_http_status_code() == HTTPStatus.CONFLICT and (
            done := _done_meanwhile(store, name, wish)
        ):
            return done
        raise


def _done_meanwhile(store: LifecycleStore, name: str, wish: Wish) -> Transition | None:
    """What already did what is wished, after the page was opened; None when nothing it showed has changed."""
    target = TARGETS[wish.action]
    newest = next(iter(store.history(name, wish.version, limit=1)), None)
    if newest is not None and newest.id > wish.seen:
        if newest.to_stage == target:
            return newest
        raise _changed(newest)
    if target == rules.PRODUCTION:
        in_production = store.production_at(name, _NOW)
        if in_production is not None and in_production.id > wish.seen:
            raise _changed(in_production)
    return None


def _changed(since: Transition) -> MlflowException:
    return conflict(
        f"Version {since.version} has changed since you opened the page: {since.actor} moved it to "
        f"{since.to_stage}. Look at the page as it is now, then decide again."
    )
