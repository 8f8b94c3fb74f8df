"""The roles of docs/people.md as scopes of the service."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ai_hub.access.principal import ALL_SCOPES, Scope


class KeyRole(StrEnum):
    """What the holder of a key is; each includes the ones before."""

    VIEWER = "viewer"
    ENGINEER = "engineer"
    APPROVER = "approver"


_READ: Final = frozenset({Scope.FEATURES_READ, Scope.EXPORTS_READ, Scope.MODELS_READ})
SCOPES: Final = {
    KeyRole.VIEWER: _READ,
    KeyRole.ENGINEER: _READ | {Scope.EXPORTS_WRITE, Scope.MODELS_REGISTER},
    KeyRole.APPROVER: ALL_SCOPES,
}
