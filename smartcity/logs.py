"""Structured logs: JSON lines to the console and to ``logs/smartcity.log``."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from logging.handlers import WatchedFileHandler
from typing import TextIO

import orjson
import structlog

from smartcity import settings

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# Everything goes through the standard library, so a notebook that configures nothing sees only
# warnings, as from any other package.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Give a module its logger: events in the past tense, facts as key=value."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def about(**facts: object) -> AbstractContextManager[None]:
    """Add facts to all events logged inside."""
    return structlog.contextvars.bound_contextvars(**facts)


def write(events: Sequence[Mapping[str, object]]) -> None:
    """Write many events of level INFO at once, as they are, to where ``configure`` said.

    For one event per request: the usual way takes longer than most answers do.
    """
    root = logging.getLogger()
    if not root.isEnabledFor(logging.INFO):
        return
    text = "".join(orjson.dumps(event).decode() + "\n" for event in events)
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            with handler.lock or nullcontext(), suppress(OSError, ValueError):
                if isinstance(handler, WatchedFileHandler):
                    handler.reopenIfNeeded()
                handler.stream.write(text)
                handler.flush()


def configure(level: str | None = None, *, console: TextIO | None = None) -> None:
    """Send this process's logs to the console and the log file.

    Several processes share the file: each line is one append, and the handler reopens the file
    after a rotation, so none is lost (a rotating handler loses lines between processes).

    Args:
        level: DEBUG, INFO, WARNING, ERROR or CRITICAL; the setting by default.
        console: Where people read along; servers use stdout. None keeps the console free.
    """
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        foreign_pre_chain=_SHARED,
    )
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if console:
        handlers.append(logging.StreamHandler(console))
    logging.raiseExceptions = False  # a log disk that fills up must not print a traceback a line
    path = settings.current().logs / "smartcity.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(WatchedFileHandler(path, encoding="utf-8"))
    except OSError as error:
        # A full or read-only disk must not keep a service from answering.
        sys.stderr.write(f"No log file: cannot write {path}: {error.strerror}\n")
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = handlers
    root.setLevel(level or settings.current().log_level)
