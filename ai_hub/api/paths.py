"""Paths that the middleware treats in a way of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Where features are read for inference.
ONLINE: Final = "/ai/features/get"
#: Asked all the time by whoever watches, and answered even when the service is full.
WATCHED: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
#: Where models are uploaded: its method and path.
UPLOAD: Final = ("POST", "/ai/models/register")
#: Label of a path that the service does not have.
UNKNOWN: Final = "none"
_PARAMETER: Final = re.compile(r"\{\w+\}")


class Templates:
    """Paths of an application with the names of their parameters, such as `/ai/models/{model_id}`."""

    def __init__(self, app: FastAPI) -> None:
        documented = sorted(app.openapi()["paths"], key=lambda path: ("{" in path, path))
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
        """Whether it is one of these, whole: a router knows its paths without the prefix it is mounted at."""
        return template in self._known


_FILES: Final = frozenset({"/docs/static"})


def templates_of(app: FastAPI) -> Templates:
    """Those of `app`, found out once."""
    found: Templates | None = getattr(app.state, "templates", None)
    if found is None:
        found = app.state.templates = Templates(app)
    return found
