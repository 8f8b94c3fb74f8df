"""The application behind `/lifecycle`: our pages, the headers that guard them, and readable errors."""

from __future__ import annotations

import logging
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from mlflow.exceptions import MlflowException
from starlette.exceptions import HTTPException

from mlflow_plugins.web.lifecycle import render, views

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.middleware.base import RequestResponseEndpoint

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    # what is in production may change, and what a person may see is theirs alone
    "Cache-Control": "no-store",
}
#: The styles of a picture are in its elements; opened by itself it may do nothing else.
_PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
_log: Final = logging.getLogger(__name__)
#: Files of the pages, and what MLflow's own pages load.
_FILES: Final = {"style.css": "text/css", "mlflow.css": "text/css", "mlflow.js": "text/javascript"}


def create_page() -> FastAPI:
    """The application; it answers paths from `/lifecycle` on."""
    app = FastAPI(title="AI Hub lifecycle page", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_guard)
    for name, kind in _FILES.items():
        app.add_api_route(f"{views.PREFIX}/{name}", _file(name, kind))
    app.include_router(views.router)
    app.add_exception_handler(MlflowException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _no_page)
    return app


async def _guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if response.headers.get("content-type", "").startswith("image/"):
        response.headers["Content-Security-Policy"] = _PICTURE_POLICY
    return response


def _file(name: str, kind: str) -> Callable[[], Response]:
    content = (files(__package__) / name).read_bytes()
    return lambda: Response(content, media_type=kind, headers={"Cache-Control": "max-age=3600"})


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, MlflowException):
        raise error
    status = error.get_http_status_code()
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error(request, status, "The server made a mistake. Its log tells the administrator which.")
    return _error(request, status, str(error.message))


def _malformed(request: Request, error: Exception) -> Response:
    del error
    return _error(request, HTTPStatus.BAD_REQUEST, "This address is not one of a page. Start from the list.")


def _no_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    return _error(request, status, "There is no page at this address. Start from the list.")


def _error(request: Request, status: int, text: str) -> Response:
    root = request.scope.get("root_path", "")
    return render.page(
        "error.html",
        status,
        title=HTTPStatus(status).phrase,
        text=text,
        page=lambda: f"{root}{views.PREFIX}",
        stylesheet=f"{root}{views.PREFIX}/style.css",
        mlflow_home=f"{root}/",
        user=None,
    )
