"""From the headers of a request to the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_hub.access.principal import DEVELOPER, Principal
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ai_hub.service.settings import ServiceSettings
    from ai_hub.settings import Settings

from contextlib import asynccontextmanager


class UnauthenticatedError(AiHubError):
    """The request carries no key or token that is valid."""


class Authenticator:
    """Tells who asks."""

    def __init__(self, options: ServiceSettings) -> None:
        self._options = options

    async def authenticate(self, api_key: str | None, bearer: str | None) -> Principal:
        """The caller that a key (header `X-API-Key`) or a bearer token stands for.

        Raises:
            UnauthenticatedError: neither is valid.
            ServiceDownError: that cannot be found out now.
        """
        del api_key, bearer
        if self._options.auth == "off":
            return DEVELOPER
        raise UnauthenticatedError


@asynccontextmanager
async def open_authenticator(options: ServiceSettings, settings: Settings) -> AsyncIterator[Authenticator]:
    """An authenticator that keeps itself up to date until it is closed."""
    del settings
    yield Authenticator(options)
