"""Names of tenants and assets: one rule each, for every place that takes one.

The tables take what their CHECKs allow, and those rows stay readable. A tenant of the service and the
registry is also a workspace of MLflow, whose names are narrower. The id of a new asset is narrower than that
of a stored one, which SQL may have written.
"""

from __future__ import annotations

import re
from typing import Final

from ai_hub.errors import BadInputError

#: Tenants of the tables; regular expression of the whole name.
TENANT_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,62}"
#: Tenants of the service and the registry: 2 to 63 characters, none of them a hyphen at the end.
WORKSPACE_PATTERN: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])"
#: Characters of an asset's id.
ASSET_LENGTH: Final = 256
#: Assets of requests, which may be any stored one; control characters are in no id.
ASSET_PATTERN: Final = r"[^\x00-\x1f\x7f]+"


def check_tenant(tenant: str) -> str:
    """The name, if the tables take it.

    Raises:
        BadInputError: they do not.
    """
    if re.fullmatch(TENANT_PATTERN, tenant) is None:
        raise BadInputError(
            f"{tenant[:80]!r} cannot be a tenant.",
            hint="Use lower-case letters, digits and hyphens, for example city-works.",
        )
    return tenant


def check_workspace(tenant: str) -> str:
    """The name, if the service and the registry take it.

    Raises:
        BadInputError: they do not.
    """
    if re.fullmatch(WORKSPACE_PATTERN, tenant) is None:
        raise BadInputError(
            f"{tenant[:80]!r} cannot be a tenant of the service.",
            hint="Use 2 to 63 lower-case letters, digits and hyphens inside, for example city-works.",
        )
    return tenant


def is_asset_id(text: str) -> bool:
    """Whether a new asset may have this id: printable, without a blank at its ends."""
    return 0 < len(text) <= ASSET_LENGTH and text.isprintable() and text == text.strip()
