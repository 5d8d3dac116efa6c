"""Logging of one process: JSON lines to its bounded file, readable lines to a person.

Our own words go through structlog and those of libraries through `logging`; both end in the same
handlers. No handler ever raises: a full disk or a closed stderr loses lines, not the process.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from paceline.process.bounded import BoundedFile

MAX_BYTES = 4 * 2**20
BACKUPS = 1

_NOISY = {"httpx": logging.WARNING, "httpcore": logging.WARNING, "asyncio": logging.WARNING}

Frame = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(
    role: str,
    name: str,
    log_file: Path | None = None,
    *,
    level: int = logging.INFO,
    stderr_level: int | None = None,
    max_bytes: int = MAX_BYTES,
    **fields: Any,
) -> None:
    """Sets up logging for the whole process; `role`, `name` and `fields` are in every JSON line.

    With a file, stderr shows warnings and worse only (the parent keeps the last of it as the tail
    of this process); without one it shows all; `stderr_level` says otherwise. Calling it again
    replaces what was.
    """
    if stderr_level is None:
        stderr_level = logging.WARNING if log_file else level
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    handlers: list[logging.Handler] = [_stderr(shared, stderr_level)]
    if log_file is not None:
        bound = {"role": role, "name": name, "pid": os.getpid(), **fields}
        handlers.append(_json(shared, bound, log_file, max_bytes))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    _install(handlers, level)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; usable before `configure`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class BoundedHandler(logging.Handler):
    """Hands each record to a BoundedFile, and says when lines were lost once it can again."""

    def __init__(self, file: BoundedFile) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a bad record must not end its writer
            line = f"a log record could not be written down: {error!r}"
        if self._file.write(line.encode(errors="replace")) and self._file.lost:
            lost, self._file.lost = self._file.lost, 0
            self._file.write(b'{"level": "warning", "event": "log lines lost", "lost": %d}' % lost)

    def close(self) -> None:
        self._file.close()
        super().close()


class SafeStderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever stderr is now; one that is closed, full or gone is no error."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if self.stream is not None:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        return


def _json(
    shared: list[Processor], bound: dict[str, Any], log_file: Path, max_bytes: int
) -> logging.Handler:
    def add_bound(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**bound, **event}

    handler = BoundedHandler(BoundedFile(log_file, max_bytes=max_bytes, backups=BACKUPS))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                add_bound,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    return handler


def _stderr(shared: list[Processor], level: int) -> logging.Handler:
    handler = SafeStderrHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr is not None and sys.stderr.isatty(),
                    exception_formatter=structlog.dev.plain_traceback,
                ),
            ],
        )
    )
    return handler


def _install(handlers: list[logging.Handler], level: int) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name, quiet in _NOISY.items():
        logging.getLogger(name).setLevel(max(level, quiet))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    frame: Frame = (kind, error, trace)
    logging.getLogger("paceline").critical("uncaught exception", exc_info=frame)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
