"""From the headers of a request to the caller."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from ai_hub.access import api_keys
from ai_hub.access.key_cache import KeyRing
from ai_hub.access.principal import DEVELOPER, Principal, UnauthenticatedError
from ai_hub.access.tokens import ProviderKeys, Tokens, provider_url
from ai_hub.database.tenant_wall import service_dsn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ai_hub.settings import ServiceSettings, Settings

_CREATE: Final = "Ask your administrator for a key (`ai-hub keys create`)."


#: An unknown id and a wrong secret read the same.
_UNKNOWN: Final = ("This API key is not known.", _CREATE)
#: By what is wrong.
_REASONS: Final = {
    "wrong": _UNKNOWN,
    "revoked": ("This API key was revoked.", _CREATE),
    "expired": ("This API key has expired.", _CREATE),
}


class Authenticator:
    """Tells who asks."""

    def __init__(self, options: ServiceSettings, ring: KeyRing, tokens: Tokens | None = None) -> None:
        self._options = options
        self._ring = ring
        self._tokens = tokens

    @property
    def loaded(self) -> bool:
        """Whether callers can be told apart: the keys were read, or nobody needs one."""
        return self._options.auth == "off" or self._ring.loaded

    def known(self, key: str | None, bearer: str | None) -> Principal | None:
        """The caller that a key (header `X-API-Key`) or a bearer token stands for; waits for nothing.

        None: what is in memory does not tell; `look_up` does.

        Raises:
            UnauthenticatedError: neither is valid.
        """
        if self._options.auth == "off":
            return DEVELOPER
        given = key or bearer
        if not given:
            raise UnauthenticatedError(
                "This request carries no key.", hint=f"Send one in the header X-API-Key. {_CREATE}"
            )
        if not key and not given.startswith(api_keys.PREFIX):
            if self._tokens is None:
                raise UnauthenticatedError("This bearer token is not an API key.", hint=_CREATE)
            return self._tokens.known(given)
        return self._by_key(given)

    async def look_up(self, key: str | None, bearer: str | None) -> Principal:
        """The caller that `known` did not know, by a look at the database or at the provider's keys.

        Raises:
            UnauthenticatedError: there is none.
            ServiceDownError: that cannot be found out now.
        """
        given = key or bearer or ""
        if self._tokens is not None and not key and not given.startswith(api_keys.PREFIX):
            return await self._tokens.principal(given)
        if (text := api_keys.parse(given)) is not None:
            await self._ring.look_up(text.key_id)
        principal = self._by_key(given)
        if principal is None:
            message, hint = _UNKNOWN
            raise UnauthenticatedError(message, hint=hint)
        return principal

    def _by_key(self, given: str) -> Principal | None:
        key = api_keys.parse(given)
        if key is None:
            raise UnauthenticatedError(
                "This is not the text of an API key.", hint="It begins with aih_ and has 60 characters."
            )
        principal, problem = self._ring.find(key)
        if principal is None and problem != "unknown":
            message, hint = _REASONS[problem]
            raise UnauthenticatedError(message, hint=hint)
        return principal


@asynccontextmanager
async def open_authenticator(options: ServiceSettings, settings: Settings) -> AsyncIterator[Authenticator]:
    """An authenticator that keeps itself up to date until it is closed."""
    ring = KeyRing(lambda: service_dsn(settings), every_s=options.keys_refresh_s)
    if options.auth == "off":
        yield Authenticator(options, ring)
        return
    url = provider_url(options)
    provider = None if url is None else ProviderKeys(url)
    keeping = asyncio.create_task(ring.keep())
    try:
        yield Authenticator(options, ring, None if provider is None else Tokens(options, provider))
    finally:
        if provider is not None:
            await provider.close()
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await ring.close()
