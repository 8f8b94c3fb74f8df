"""Structured logs: one line for each event, with the id of the request it belongs to."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

import orjson
import structlog

from ai_hub.access.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ai_hub.service.settings import ServiceSettings

    Processor = Callable[[Any, str, MutableMapping[str, Any]], Any]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: The line about each request: the endpoint, and names and numbers of our own.
REQUEST: Final = "request"
#: Libraries that tell every step at this level or below.
_QUIET = {"uvicorn.access": logging.CRITICAL, "httpx": logging.WARNING, "botocore": logging.WARNING}


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
    last: list[Processor]
    if options.log_format == "json":
        # without the values of local variables, which may be secrets
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(tracebacks),
            _redacted,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        last = [_redacted, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
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
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def _redacted(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # masking takes a tenth of a read of features; in the line of an answer there is nothing of the caller's
    is_answer = event["event"] == REQUEST and "reason" not in event
    return event if is_answer else redact(logger, method, event)


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
