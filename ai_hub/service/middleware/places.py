"""So many requests are under way and no more; places are for callers that are known, and for all of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ai_hub.service.errors import OverloadedError, TooManyRequestsError, answer
from ai_hub.service.middleware.paths import ONLINE, WATCHED
from ai_hub.service.observability import metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.access.principal import Principal
    from ai_hub.errors import AiHubError


class Places:
    """At most `most` requests of the online path, and as many of all others, are under way.

    One caller has half of them at most. The innermost middleware: whoever is refused before takes no place.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._under_way = {"online": 0, "other": 0}
        #: by group and caller; those with none are not in it
        self._of_callers: defaultdict[tuple[str, str], int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in WATCHED:
            await self._app(scope, receive, send)
            return
        group = "online" if scope["path"] == ONLINE else "other"
        principal: Principal | None = scope.get("state", {}).get("principal")
        caller = group, "" if principal is None else principal.counted_as
        if (refused := self._refused(caller, principal)) is not None:
            metrics.REFUSED.labels(group).inc()
            await answer(refused, scope)(scope, receive, send)
            return
        self._under_way[group] += 1
        self._of_callers[caller] += 1
        metrics.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way[group] -= 1
            self._of_callers[caller] -= 1
            if not self._of_callers[caller]:
                del self._of_callers[caller]
            metrics.IN_FLIGHT.dec()

    def _refused(self, caller: tuple[str, str], principal: Principal | None) -> AiHubError | None:
        """Why there is no place."""
        if self._under_way[caller[0]] >= self._most:
            return OverloadedError(
                f"{self._most} requests are under way.", hint="Try again in a second, or run more workers."
            )
        if principal is not None and principal.every_tenant:
            return None
        if self._of_callers.get(caller, 0) >= self._most_of_one:
            name = "nobody known" if principal is None else principal.name
            return TooManyRequestsError(
                f"{self._most_of_one} requests of {name} are under way.",
                hint="Wait for answers before you ask for more.",
            )
        return None
