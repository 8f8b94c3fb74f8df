"""Which names of tenants the service takes."""

from __future__ import annotations

import re
from typing import Final

from ai_hub.errors import BadInputError

#: Those of MLflow's workspaces. The database alone takes `a` and `a-` as well, and keeps what it has.
PATTERN: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])"


def check_served(tenant: str) -> str:
    """The name, if the service takes it.

    Raises:
        BadInputError: it does not.
    """
    if re.fullmatch(PATTERN, tenant) is None:
        raise BadInputError(
            f"{tenant[:80]!r} cannot be a tenant of the service.",
            hint="Use 2 to 63 lower-case letters, digits and hyphens inside, for example city-works.",
        )
    return tenant
