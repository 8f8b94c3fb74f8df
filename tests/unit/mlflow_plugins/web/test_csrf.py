"""Which requests come from a page of another site."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from mlflow_plugins.web.mount import is_foreign

OURS = {"host": "models.example.org"}
OTHER = {**OURS, "origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("method", "headers", "foreign"),
    [
        ("POST", OURS, False),  # a program
        ("POST", {**OURS, "origin": "https://models.example.org"}, False),
        ("POST", {**OURS, "origin": "http://models.example.org"}, False),  # TLS ends before us
        ("POST", {**OURS, "origin": "https://models.example.org:8443"}, True),
        ("POST", {**OURS, "origin": "null"}, True),  # sandboxed frame, local file
        ("POST", {**OURS, "origin": "https://models.example.org.evil.example"}, True),
        ("POST", OTHER, True),
        ("DELETE", OTHER, True),
        ("PUT", OTHER, True),
        ("PATCH", OTHER, True),
        ("GET", OTHER, False),
        ("HEAD", OTHER, False),
        ("OPTIONS", OTHER, False),
        ("POST", {**OURS, "sec-fetch-site": "same-origin"}, False),
        ("POST", {**OURS, "sec-fetch-site": "none"}, False),
        ("POST", {**OURS, "sec-fetch-site": "same-site"}, True),  # another port, another subdomain
        ("POST", {**OURS, "sec-fetch-site": "cross-site"}, True),
        ("POST", {**OURS, "sec-fetch-site": "anything else"}, True),
        # behind a proxy that changes the name, only the browser's own word is left
        ("POST", {**OTHER, "sec-fetch-site": "same-origin"}, False),
        ("POST", {**OURS, "origin": "https://friend.example", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_is_foreign(method: str, headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign(method, Headers(headers), {"https://friend.example"}) is foreign
