"""Structured logs: one line for each event, with the id of its request, and secrets masked."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from ai_hub.settings import ServiceSettings

    Processor = Callable[[Any, str, MutableMapping[str, Any]], Any]
    from collections.abc import MutableMapping

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: The line about each request: the endpoint, and names and numbers of our own.
REQUEST: Final = "request.answered"
#: Seconds that such a line waits at most.
BATCH_S: Final = 0.05
#: Libraries that tell every step at this level or below.
QUIET = {"uvicorn.access": logging.CRITICAL, "httpx": logging.WARNING, "botocore": logging.WARNING}
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


def configure(options: ServiceSettings, stream: TextIO | None = None) -> None:
    """Send our events and those of libraries to `stream` (default: the log file, else standard output)."""
    if stream is None:
        stream = sys.stdout if options.log_path is None else options.log_path.open("a", buffering=1)
    level = _LEVELS[options.log_level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    first: list[Processor] = []
    last: list[Processor]
    if options.log_format == "json":
        # without the values of local variables, which may be secrets
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(tracebacks),
            redact,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
        first = [_answered]
    else:
        last = [redact, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    _lines.stream = stream
    structlog.configure(
        processors=[*first, *shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


class _Lines:
    """A logger that writes lines; those of one pass of the event loop in one go.

    A line may be given as its fields, which become JSON when it is written.
    """

    def __init__(self) -> None:
        self.stream: TextIO = sys.stdout
        #: services of this process that let lines about answered requests wait
        self.batching = 0
        self._unwritten: list[str | dict[str, Any]] = []
        self._timer: asyncio.Handle | None = None
        self._is_due = False

    def msg(self, line: str | dict[str, Any]) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another thread, or no loop
            self._write(_text(line))
            return
        self._unwritten.append(line)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self.flush)

    debug = info = warning = error = critical = exception = msg

    def answered(self, fields: dict[str, Any]) -> None:
        """Write the line about a request, with those of others."""
        if not self.batching:
            self.msg(fields)
            return
        self._unwritten.append(fields)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Write what is waiting."""
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._unwritten = self._unwritten, []
        if lines:
            self._write("".join(map(_text, lines)))

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


_lines: Final = _Lines()


@contextmanager
def batched() -> Iterator[None]:
    """Let lines about answered requests wait for up to `BATCH_S`, as each write costs a system call.

    A line of any other kind is written at once, with those before it; at the end of the block all are.
    """
    _lines.batching += 1
    try:
        yield
    finally:
        _lines.batching -= 1
        _lines.flush()


def _answered(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Pass the line about an answered request on, as the other processors take as long as reading it.

    Nothing in it is the caller's, so nothing is masked.

    Raises:
        structlog.DropEvent: it is passed on.
    """
    if event["event"] != REQUEST or "reason" in event:
        return event
    event["level"], event["timestamp"] = method, datetime.now(UTC)
    logger.answered(event)
    raise structlog.DropEvent


def _text(line: str | dict[str, Any]) -> str:
    if isinstance(line, dict):
        line = orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z).decode()
    return f"{line}\n"


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


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
