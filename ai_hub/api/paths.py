"""Paths with a role in the middleware, and the route template of a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fastapi.routing import APIRoute, iter_route_contexts

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Online reads of features.
ONLINE: Final = "/ai/features/get"
#: Health checks and metrics, answered even when the service is full.
WATCHED: Final = frozenset({"/health", "/api/health", "/health/live", "/health/ready", "/metrics"})
#: Uploads of models: method and path.
UPLOAD: Final = ("POST", "/ai/models/register")
#: The page of forecasts, which asks the service with the key that is typed in.
PAGE: Final = "/forecasts"
#: Label of an unknown path.
UNKNOWN: Final = "none"
_PARAMETER: Final = re.compile(r"\{\w+\}")


class RouteTemplates:
    """Paths of an application's routes, such as `/ai/models/{model_id}`."""

    def __init__(self, app: FastAPI) -> None:
        # without the OpenAPI document, whose schemas take half a second of a start
        paths = {
            str(route.path_format)
            for route in iter_route_contexts(app.routes)
            if isinstance(route.original_route, APIRoute) and route.include_in_schema
        }
        documented = sorted(paths, key=lambda path: ("{" in path, path))
        mounted = [f"{path}/{{file}}" for each in app.routes if (path := getattr(each, "path", "")) in _FILES]
        self._patterns = [
            (re.compile("[^/]+".join(map(re.escape, _PARAMETER.split(path.rstrip("/"))))), path)
            for path in [*documented, *WATCHED, "/docs", "/openapi.json", *mounted]
        ]
        self._known = {path for _, path in self._patterns}

    def of(self, path: str) -> str:
        """The template of a request's path; `none` where the application has no such path."""
        if path in self._known:
            return path
        bare = path.rstrip("/")
        return next((template for pattern, template in self._patterns if pattern.fullmatch(bare)), UNKNOWN)

    def has(self, template: str | None) -> bool:
        """Whether this is a whole template; included routers know theirs without the prefix."""
        return template in self._known


_FILES: Final = frozenset({"/docs/static", PAGE})


def templates_of(app: FastAPI) -> RouteTemplates:
    """The templates of `app`, built once."""
    templates: RouteTemplates | None = getattr(app.state, "templates", None)
    if templates is None:
        templates = app.state.templates = RouteTemplates(app)
    return templates
