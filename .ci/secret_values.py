# ruff: noqa: INP001
"""A detector of the two assignments of a secret that detect-secrets' KeywordDetector passes over.

It wants a letter, digit or underscore first (one in 64 random URL-safe secrets begins with `-`), and quotes
in all files but those it knows as configuration, which `.env` and Dockerfiles are not.
"""

from __future__ import annotations

import re

from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.keyword import DENYLIST_REGEX

_NAME = DENYLIST_REGEX.replace("(", "(?:")
#: Shorter ones are options of commands (`--password`) and words in prose.
_REST = r"[\w+/=-]{11,}"


class SecretValueDetector(RegexBasedDetector):
    """Finds `password = "-…"`, with or without quotes, and `DB_PASSWORD=…` at the start of a line."""

    secret_type = "Secret Value"  # noqa: S105  the name of a kind, not a secret
    denylist = (
        re.compile(rf"""{_NAME}['"\]]{{0,2}}\s*[:=]{{1,3}}\s*['"`]?([-+/]{_REST})""", re.IGNORECASE),
        re.compile(rf"^\s*(?:export\s+|ENV\s+)?[A-Z_]*(?i:{_NAME})=([\w+/-]{_REST})\s*$"),
    )
