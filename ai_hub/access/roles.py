"""The roles of docs/people.md as scopes of the service."""

from __future__ import annotations

from typing import Final

from ai_hub.access.principal import ALL_SCOPES, Scope
from ai_hub.roles import Role

_READ: Final = frozenset({Scope.FEATURES_READ, Scope.EXPORTS_READ, Scope.MODELS_READ})
SCOPES: Final = {
    Role.VIEWER: _READ,
    Role.ENGINEER: _READ | {Scope.EXPORTS_WRITE, Scope.MODELS_REGISTER},
    Role.APPROVER: ALL_SCOPES,
}
