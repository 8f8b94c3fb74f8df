"""How servers that speak HTTP are asked whether they work."""

from __future__ import annotations

import http.client
import urllib.request
from http import HTTPStatus

from ai_hub.stack.service import NotReadyError


def require_ok(url: str, timeout_s: float) -> None:
    """Make sure that `url` answers with 200.

    Raises:
        NotReadyError: it does not.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310  # from the settings
            status = response.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotReadyError(str(error)) from error
    if status != HTTPStatus.OK:
        raise NotReadyError(f"{url} answered {status}")
