"""What endpoints depend on: the services, the caller, and common parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from ai_hub.access.principal import Principal, Scope
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from ai_hub.api.services import Services

# For OpenAPI alone: the middleware checks them.
_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="a key made by `ai-hub keys create`")
_BEARER = HTTPBearer(auto_error=False, description="such a key, or a token of the OpenID provider")


async def caller(request: Request) -> Principal:
    """The authenticated caller. A coroutine, because FastAPI runs functions in threads."""
    return cast("Principal", request.scope["state"]["principal"])


def services_of(request: Request) -> Services:
    """The services of the application."""
    return cast("Services", request.app.state.services)


def permit(request: Request, principal: Principal, scope: Scope, tenant: str, **log_fields: object) -> None:
    """Make sure that the caller has `scope` in `tenant`.

    The tenant and `log_fields` are logged with the request.

    Raises:
        ForbiddenError: it has not.
    """
    state = request.scope["state"]
    state["tenant"] = tenant
    state["log_fields"] = {name: value for name, value in log_fields.items() if value is not None}
    principal.require(scope, tenant)


def own_tenant(principal: Principal, tenant: str | None) -> str:
    """The tenant that a request is about: the one it names, else the one that the key is for.

    Raises:
        BadInputError: it names none, and the key is for several.
    """
    if tenant is not None:
        return tenant
    if len(principal.tenants) == 1:
        return next(iter(principal.tenants))
    raise BadInputError(
        "This request names no tenant, and its key is not for a single one.", hint="Send tenant_id."
    )


#: Parameters of lists.
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="leave out so many of the first")]

#: For routers: says in OpenAPI how to authenticate.
AUTHENTICATED = [Security(_API_KEY), Security(_BEARER)]
Caller = Annotated[Principal, Depends(caller)]


def openapi_links(*operations: str, **parameters: str) -> dict[str, Any]:
    """OpenAPI links of a response to `operations`, with parameters from fields of its body."""
    taken = {name: f"$response.body#/{field}" for name, field in parameters.items()}
    return {"links": {name: {"operationId": name, "parameters": taken} for name in operations}}
