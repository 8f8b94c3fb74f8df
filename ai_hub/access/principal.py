"""Callers: their tenants, their scopes, and the roles that scopes are given by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ai_hub.errors import AiHubError, ForbiddenError
from mlflow_plugins.users.roles import Role


class Scope(StrEnum):
    """What a caller may do in its tenants."""

    FEATURES_READ = "features:read"
    FORECASTS_READ = "forecasts:read"
    #: to forecast, which adds to the log
    FORECASTS_WRITE = "forecasts:write"
    EXPORTS_READ = "exports:read"
    EXPORTS_WRITE = "exports:write"
    MODELS_READ = "models:read"
    MODELS_REGISTER = "models:register"
    MODELS_PROMOTE = "models:promote"
    MODELS_DELETE = "models:delete"


ALL_SCOPES: Final = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a name for logs and audit, the tenants it is bound to, and its scopes."""

    name: str
    tenants: frozenset[str]
    scopes: frozenset[Scope]
    #: tells callers of one name apart; never a secret
    identity: str = ""
    #: only of the development setting that switches authentication off
    every_tenant: bool = False

    @property
    def counted_as(self) -> str:
        """What tells callers apart where requests are counted."""
        return self.identity or self.name

    def require(self, scope: Scope, tenant: str) -> None:
        """Make sure that the caller has `scope` in `tenant`.

        Raises:
            ForbiddenError: it has not; the text is the same whether or not the tenant exists.
        """
        if not self.every_tenant and tenant not in self.tenants:
            raise ForbiddenError(
                f"Your key or token is not for tenant {tenant}.",
                hint="Use one of that tenant, or ask the administrator for one (`ai-hub keys create`).",
            )
        self.require_scope(scope)

    def require_scope(self, scope: Scope) -> None:
        """Make sure that the caller has `scope` in its tenants.

        Raises:
            ForbiddenError: it has not.
        """
        if scope not in self.scopes:
            raise ForbiddenError(
                f"Your key or token lacks the scope {scope}.",
                hint="Ask the administrator for one that has it (`ai-hub keys create --scope …`).",
            )


#: Everybody, where authentication is switched off.
DEVELOPER: Final = Principal("development", frozenset(), ALL_SCOPES, every_tenant=True)


_READ: Final = frozenset({Scope.FEATURES_READ, Scope.FORECASTS_READ, Scope.EXPORTS_READ, Scope.MODELS_READ})
SCOPES: Final = {
    Role.VIEWER: _READ,
    Role.ENGINEER: _READ | {Scope.FORECASTS_WRITE, Scope.EXPORTS_WRITE, Scope.MODELS_REGISTER},
    Role.APPROVER: ALL_SCOPES,
}


class UnauthenticatedError(AiHubError):
    """The request carries no key or token that is valid."""
