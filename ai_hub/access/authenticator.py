"""Authenticates callers by API key or bearer token."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from ai_hub.access import api_keys
from ai_hub.access.api_keys import KeyCache
from ai_hub.access.principal import DEVELOPER, Principal, UnauthenticatedError
from ai_hub.access.tokens import ProviderKeys, Tokens, provider_url
from ai_hub.db.tenant_scope import service_dsn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ai_hub.settings import ServiceSettings, Settings

_CREATE: Final = "Ask your administrator for a key (`ai-hub keys create`)."


#: The same for an unknown id and a wrong secret.
_UNKNOWN: Final = ("This API key is not known.", _CREATE)
_REASONS: Final = {
    "wrong": _UNKNOWN,
    "revoked": ("This API key was revoked.", _CREATE),
    "expired": ("This API key has expired.", _CREATE),
}


class Authenticator:
    """Tells the caller of a request."""

    def __init__(self, options: ServiceSettings, keys: KeyCache, tokens: Tokens | None = None) -> None:
        self._options = options
        self._keys = keys
        self._tokens = tokens

    @property
    def loaded(self) -> bool:
        """Whether callers can be authenticated: the database was read once, or authentication is off."""
        return self._options.auth == "off" or self._keys.loaded

    def from_cache(self, key: str | None, bearer: str | None) -> Principal | None:
        """The caller of a key (header `X-API-Key`) or a bearer token, without waiting.

        None: the key is not cached; use `load`.

        Raises:
            UnauthenticatedError: the credential is missing or not valid.
        """
        if self._options.auth == "off":
            return DEVELOPER
        credential = key or bearer
        if not credential:
            raise UnauthenticatedError(
                "This request carries no key.", hint=f"Send one in the header X-API-Key. {_CREATE}"
            )
        if not key and not credential.startswith(api_keys.PREFIX):
            if self._tokens is None:
                raise UnauthenticatedError("This bearer token is not an API key.", hint=_CREATE)
            return self._tokens.from_cache(credential)
        return self._by_key(credential)

    async def load(self, key: str | None, bearer: str | None) -> Principal:
        """The caller, with its key loaded from the database or from the OpenID provider.

        Raises:
            UnauthenticatedError: the credential is not valid.
            ServiceDownError: the key cannot be loaded now.
        """
        credential = key or bearer or ""
        if self._tokens is not None and not key and not credential.startswith(api_keys.PREFIX):
            return await self._tokens.load(credential)
        if (text := api_keys.parse(credential)) is not None:
            await self._keys.load(text.key_id)
        principal = self._by_key(credential)
        if principal is None:
            message, hint = _UNKNOWN
            raise UnauthenticatedError(message, hint=hint)
        return principal

    def _by_key(self, credential: str) -> Principal | None:
        key = api_keys.parse(credential)
        if key is None:
            raise UnauthenticatedError(
                "This is not the text of an API key.", hint="It begins with aih_ and has 60 characters."
            )
        principal, problem = self._keys.find(key)
        if principal is None and problem != "unknown":
            message, hint = _REASONS[problem]
            raise UnauthenticatedError(message, hint=hint)
        return principal


@asynccontextmanager
async def open_authenticator(options: ServiceSettings, settings: Settings) -> AsyncIterator[Authenticator]:
    """An authenticator whose cache of keys is refreshed until it is closed."""
    keys = KeyCache(lambda: service_dsn(settings), every_s=options.keys_refresh_s)
    if options.auth == "off":
        yield Authenticator(options, keys)
        return
    url = provider_url(options)
    provider = None if url is None else ProviderKeys(url)
    refresh = asyncio.create_task(keys.keep_fresh())
    try:
        yield Authenticator(options, keys, None if provider is None else Tokens(options, provider))
    finally:
        if provider is not None:
            await provider.close()
        refresh.cancel()
        with suppress(asyncio.CancelledError):
            await refresh
        await keys.close()
