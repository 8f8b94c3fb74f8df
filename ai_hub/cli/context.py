"""What the commands of one call share."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_hub.settings import Settings


@cache
def settings() -> Settings:
    """The settings, read once in a call of the command line; `main` clears the cache at the start of each.

    Raises:
        ValidationError: a setting is not usable.
    """
    from ai_hub.settings import Settings  # not every command reads settings

    return Settings()
