"""An endpoint behind the checks of every request, with callers that need no database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from ai_hub.access.principal import Principal, UnauthenticatedError
from ai_hub.api.admission import Admission

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.settings import ServiceSettings


class Admitted(Admission):
    """`endpoint` behind `Admission`; `caller_of` tells the caller of a key, or None: it is not valid."""

    def __init__(
        self, endpoint: ASGIApp, options: ServiceSettings, caller_of: Callable[[str | None], Principal | None]
    ) -> None:
        super().__init__(endpoint, options)
        authenticator = _Authenticator(caller_of)
        self._application = SimpleNamespace(
            state=SimpleNamespace(services=SimpleNamespace(authenticator=authenticator))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__({**scope, "app": self._application}, receive, send)


class _Authenticator:
    def __init__(self, caller_of: Callable[[str | None], Principal | None]) -> None:
        self._caller_of = caller_of

    def from_cache(self, key: str | None, bearer: str | None) -> Principal:
        del bearer
        principal = self._caller_of(key)
        if principal is None:
            raise UnauthenticatedError("This API key is not known.")
        return principal
