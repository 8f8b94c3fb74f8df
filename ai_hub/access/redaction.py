"""Takes secrets out of log events, whatever put them in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

MASK: Final = "***"
_DEPTH: Final = 6
#: What names of secret fields, headers, variables and parameters have in them.
_NAMES: Final = (
    r"passw(?:or)?d|secret|token|authorization|cookie|credential|dsn"
    r"|api[-_]?key|access[-_]?key|private[-_]?key"
)
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_VALUE: Final = r"""\"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&})\]"']+"""
_PATTERNS: Final = (
    # our own keys, but for the id, which tells which key to revoke
    (re.compile(r"(aih_[a-z0-9]{12}_)[A-Za-z0-9_-]{8,}"), rf"\1{MASK}"),
    # JSON web tokens
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*"), MASK),
    # user:password@ of an address; the password may hold anything but a space
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@?#]*):\S*@"), rf"\1:{MASK}@"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    # name=value, name: value, "name": "value"
    (re.compile(rf"""([\w.-]*(?:{_NAMES})[\w-]*["']?\s*[=:]\s*)({_VALUE})""", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)", re.DOTALL), MASK),
)


def redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: the event with its secrets masked; put it last before the renderer."""
    del logger, method
    return {key: _field(str(key), value, _DEPTH) for key, value in event.items()}


def redact_text(text: str) -> str:
    """The text with everything masked that has the form of a secret."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _field(name: str, value: Any, depth: int) -> Any:
    if name == "exc_info":  # whoever renders it
        return value
    if value is not None and not isinstance(value, bool) and _SECRET_NAME.search(name):
        return MASK
    return _value(value, depth)


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict | list | tuple | set | frozenset):
        return _inside(value, depth - 1) if depth else MASK
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return redact_text(text)


def _inside(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return {redact_text(str(key)): _field(str(key), each, depth) for key, each in value.items()}
    return [_value(each, depth) for each in value]
