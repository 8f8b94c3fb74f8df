"""The roles people and keys have in a tenant, and for people the grants of MLflow's own permissions.

A role is an MLflow role in the tenant's workspace. Runs, traces and logged models follow their experiment,
versions their model. Creators manage what they created, as MLflow itself has it. Light to import, because the
command line shows them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Role(StrEnum):
    """What somebody may do in a tenant; each includes the ones before."""

    VIEWER = "viewer"
    ENGINEER = "engineer"
    APPROVER = "approver"


DESCRIPTIONS: Final = {
    Role.VIEWER: "Reads everything of the tenant and changes nothing.",
    Role.ENGINEER: "Logs runs, registers versions, archives and restores those not in Production.",
    Role.APPROVER: "An engineer who also moves versions into and out of Production.",
}


class Grant(NamedTuple):
    """A permission on every resource of a type in the tenant."""

    resource_type: str
    permission: str
    resource_pattern: str = "*"


_CONTENT: Final = ("experiment", "registered_model", "prompt", "scorer")
#: Membership: without it nobody may read a registered version's files through the artifact proxy.
_MEMBER: Final = Grant("workspace", "USE")
#: What tells an approver from an engineer: nobody is ever given this for creating something.
APPROVAL: Final = Grant("registered_model_version", "MANAGE")

GRANTS: Final[dict[Role, tuple[Grant, ...]]] = {
    Role.VIEWER: (_MEMBER, *(Grant(kind, "READ") for kind in _CONTENT)),
    Role.ENGINEER: (_MEMBER, *(Grant(kind, "EDIT") for kind in _CONTENT)),
    Role.APPROVER: (_MEMBER, *(Grant(kind, "EDIT") for kind in _CONTENT), APPROVAL),
}
