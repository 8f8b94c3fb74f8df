"""The roles people have in a tenant, as grants of MLflow's own permissions.

A role is an MLflow role in the tenant's workspace. Runs, traces and logged models follow their experiment,
versions their model. Creators manage what they created, as MLflow itself has it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ai_hub.roles import Role


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
