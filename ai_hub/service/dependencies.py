"""What endpoints are given: the caller and the parts of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from ai_hub.access.principal import Principal

if TYPE_CHECKING:
    from ai_hub.service.state import State

# The middleware has checked them already; here they are for OpenAPI.
_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="a key made by `ai-hub keys create`")
_BEARER = HTTPBearer(auto_error=False, description="such a key, or a token of the OpenID provider")


async def caller(request: Request) -> Principal:
    """Whom the middleware has authenticated; a coroutine, or each request would wait for a thread."""
    return cast("Principal", request.scope["state"]["principal"])


def state_of(request: Request) -> State:
    """The parts of the service."""
    return cast("State", request.app.state.parts)


#: For routers: says in OpenAPI how to authenticate.
AUTHENTICATED = [Security(_API_KEY), Security(_BEARER)]
Caller = Annotated[Principal, Depends(caller)]
