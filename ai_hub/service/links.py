"""OpenAPI links: what of an answer leads to which other operation."""

from __future__ import annotations

from typing import Any


def links(*operations: str, **parameters: str) -> dict[str, Any]:
    """For a response of a route: `operations`, with parameters from fields of the answer's body."""
    taken = {name: f"$response.body#/{field}" for name, field in parameters.items()}
    return {"links": {name: {"operationId": name, "parameters": taken} for name in operations}}
