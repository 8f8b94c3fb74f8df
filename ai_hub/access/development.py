"""The development setting that lets everybody do everything."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ai_hub.access.provider_keys import is_loopback, provider_url
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from ai_hub.service.settings import ServiceSettings

_WARNING = """\
WARNING: AI_HUB_API_AUTH=off. Whoever reaches this service reads and changes everything of every tenant,
without a key. This is for development on your own machine only.
"""


def check_development_mode(options: ServiceSettings, host: str) -> None:
    """Make sure that a service without authentication stays on this machine, and say so loudly.

    Raises:
        BadInputError: others could reach it; or the OpenID settings cannot work.
    """
    provider_url(options)
    if options.auth != "off":
        return
    if not is_loopback(host):
        raise BadInputError(
            f"AI_HUB_API_AUTH=off would open every tenant's data to whoever reaches {host}.",
            hint="Serve on 127.0.0.1, or leave AI_HUB_API_AUTH out and use keys (`ai-hub keys create`).",
        )
    sys.stderr.write(_WARNING)
