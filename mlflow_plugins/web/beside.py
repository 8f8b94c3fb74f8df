"""Applications of ours beside MLflow's, for as little time as possible on the way to MLflow's own paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send


class Beside:
    """Hands each request on by the beginning of its path; everything else is MLflow's, the lifespan as well.

    Args:
        rest: MLflow's application.
        mounted: applications by the path they are mounted at, which they do not see.
        pages: applications by the path they answer from on, as they see it.
        before: what stands before one of MLflow's own paths.
    """

    def __init__(
        self,
        rest: ASGIApp,
        mounted: Mapping[str, ASGIApp],
        pages: Mapping[str, ASGIApp],
        before: Mapping[str, ASGIApp],
    ) -> None:
        self._rest = rest
        self._mounted = tuple((f"{path}/", path, app) for path, app in mounted.items())
        self._pages = tuple((f"{path}/", path, app) for path, app in [*pages.items(), *before.items()])
        #: every application with the path its own routes begin at
        self.parts = (*((path, app) for path, app in mounted.items()), *(("", app) for app in pages.values()))
        self.parts += (("", rest),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        await self._choose(scope)(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        kind = scope["type"]
        if kind == "lifespan":
            return self._rest
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        for below, mount, app in self._mounted:
            if path.startswith(below):
                scope["app_root_path"] = scope.get("app_root_path", root)
                scope["root_path"] = root + mount
                return app
        if kind == "http":
            for below, page, app in self._pages:
                if path == page or path.startswith(below):
                    return app
        return self._rest
