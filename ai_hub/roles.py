"""The roles people and keys have in a tenant; light to import, because the command line shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


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
