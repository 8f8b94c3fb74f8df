"""Users of MLflow's login and their roles by tenant; for its administrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.registry.server import WORKSPACES, NoSuchRouteError, call, require_server
from mlflow_plugins.users.roles import DESCRIPTIONS, GRANTS, Grant, Role

# MLflow's own client of these routes imports its whole server, which takes seconds.
_USERS: Final = "/api/2.0/mlflow/users"
_ROLES: Final = "/api/3.0/mlflow/roles"
_USER_ROLES: Final = "/api/3.0/mlflow/users/roles/list"
_OURS: Final = frozenset(str(role) for role in Role)
#: Begins the name of the role in which MLflow keeps what a user manages because they created it.
_OWN_THINGS: Final = "__user_"


@dataclass(frozen=True)
class User:
    """A user and what they are in each tenant."""

    name: str
    is_admin: bool = False
    #: by tenant
    roles: dict[str, list[str]] = field(default_factory=dict)


def add(name: str, password: str) -> bool:
    """Create a user, or set the password of one who exists; returns whether they are new.

    Raises:
        BadInputError: the server takes no such password (it wants twelve characters).
        ForbiddenError: you are not the administrator.
    """
    login = {"username": name, "password": password}
    if any(user.name == name for user in list_users()):
        _call("PATCH", f"{_USERS}/update-password", json=login)
        return False
    _call("POST", f"{_USERS}/create", json=login)
    return True


def remove(name: str) -> bool:
    """Delete a user with their roles; returns whether there was one."""
    try:
        _call("DELETE", f"{_USERS}/delete", json={"username": name})
    except NotFoundError:
        return False
    return True


def grant(name: str, tenant: str, role: Role) -> None:
    """Make `role` the user's only one in a tenant; a viewer no longer manages what they had created.

    Raises:
        NotFoundError: no such user or tenant.
        ForbiddenError: you may not hand out roles of this tenant.
    """
    require_server()
    call("GET", f"{WORKSPACES}/{quote(tenant, safe='')}")
    held = _held(name, tenant)
    wanted = _ensure_role(tenant, role)
    if wanted not in held:
        _call("POST", f"{_ROLES}/assign", json={"username": name, "role_id": wanted})
    _take(
        name, {identity: other for identity, other in held.items() if identity != wanted and other in _OURS}
    )
    if role is Role.VIEWER:
        _take(name, {identity: other for identity, other in held.items() if other not in _OURS})


def revoke(name: str, tenant: str) -> list[str]:
    """Take the user's role in a tenant away, and what they manage there; returns what it was."""
    held = _held(name, tenant)
    _take(name, held)
    return sorted(_OURS.intersection(held.values()))


def list_users(tenant: str | None = None) -> list[User]:
    """Every user by name, or those with a role in `tenant`."""
    found = []
    for row in _call("GET", f"{_USERS}/list")["users"]:
        roles: dict[str, list[str]] = {}
        for item in row["roles"]:
            if item["name"] in _OURS:
                roles.setdefault(item["workspace"], []).append(item["name"])
        if tenant is None or tenant in roles:
            found.append(User(row["username"], row["is_admin"], roles))
    return sorted(found, key=lambda user: user.name)


def _held(name: str, tenant: str) -> dict[int, str]:
    """The user's roles in a tenant, by id: ours, and the one of what they created."""
    return {
        item["id"]: item["name"]
        for item in _call("GET", _USER_ROLES, params={"username": name})["roles"]
        if item["workspace"] == tenant and (item["name"] in _OURS or item["name"].startswith(_OWN_THINGS))
    }


def _take(name: str, roles: dict[int, str]) -> None:
    for identity, role in roles.items():
        if role in _OURS:
            _call("DELETE", f"{_ROLES}/unassign", json={"username": name, "role_id": identity})
        else:  # nobody else has it, and it must not come back with them
            _call("DELETE", f"{_ROLES}/delete", json={"role_id": identity})


def _ensure_role(tenant: str, role: Role) -> int:
    """The tenant's role with exactly its grants; made or put right if necessary."""
    present = _call("GET", f"{_ROLES}/list", params={"workspace": tenant})["roles"]
    identity = next((int(item["id"]) for item in present if item["name"] == role), None)
    if identity is None:
        parameters = {"workspace": tenant, "name": str(role), "description": DESCRIPTIONS[role]}
        identity = int(_call("POST", f"{_ROLES}/create", json=parameters)["role"]["id"])
    missing = set(GRANTS[role])
    for item in _call("GET", f"{_ROLES}/permissions/list", params={"role_id": identity})["role_permissions"]:
        held = Grant(item["resource_type"], item["permission"], item["resource_pattern"])
        if held in missing:
            missing.remove(held)
        else:
            _call("DELETE", f"{_ROLES}/permissions/remove", json={"role_permission_id": item["id"]})
    for each in sorted(missing):
        grant_of_role = {"role_id": identity, **each._asdict()}
        _call("POST", f"{_ROLES}/permissions/add", json=grant_of_role)
    return identity


def _call(method: str, path: str, **arguments: Any) -> dict[str, Any]:
    """Call one of MLflow's routes about users, which exist only where there is a login.

    Raises:
        BadInputError: this server has none.
    """
    try:
        return call(method, path, **arguments)
    except NoSuchRouteError as error:
        raise BadInputError(
            "This MLflow server runs without login, so it has no users.",
            hint="Start it with one: see docs/people.md.",
        ) from error
