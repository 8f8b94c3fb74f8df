"""What goes wrong before anybody knows who asks."""

from __future__ import annotations

from ai_hub.errors import AiHubError


class UnauthenticatedError(AiHubError):
    """The request carries no key or token that is valid."""
