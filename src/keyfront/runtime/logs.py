"""Logging of Keyfront's processes, on standard error: as text for people, or as one JSON object per line.

Code logs through `logging`, with a short message and the details in `extra`:

    logger.info("snapshot applied", extra={"snapshot": 7, "distributions": 2})

In JSON, each detail is a member. In text, details follow the message as NAME=VALUE. At the default level (warnings)
a line of text is `keyfront: MESSAGE`, like all other messages of the command.

Logs must not contain keys, secrets, passphrases, tokens, signatures, cookies, or query strings.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

from keyfront.errors import KeyfrontError, os_error_text

Format = Literal["text", "json"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LogSettings(msgspec.Struct, frozen=True):
    """Logging settings. `level` is a numeric level of `logging`."""

    level: int = logging.WARNING
    format: Format = "text"


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler


class _ProcessHandler(_StreamHandler):
    """The handler of this process."""


def _formatter(settings: LogSettings, process: str) -> logging.Formatter:
    if settings.format == "json":
        return JsonFormatter(process)
    return TextFormatter(process, verbose=settings.level < logging.WARNING)


def adjust_logging(settings: LogSettings, process: str) -> None:
    """Log with other settings from now on, within `logging_to_stderr` or `process_logging`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _ProcessHandler):
            handler.setFormatter(_formatter(settings, process))
    logging.getLogger("keyfront").setLevel(settings.level)


@contextmanager
def logging_to_stderr(settings: LogSettings, process: str) -> Iterator[None]:
    """Log to standard error within the context.

    :param process: the name that records carry, such as `control` or `edge-1`.
    """
    handler = _ProcessHandler()
    handler.setFormatter(_formatter(settings, process))
    # Only Keyfront's own loggers become verbose: botocore and urllib3 log signatures and query strings at debug level.
    own = logging.getLogger("keyfront")
    before = own.level
    logging.getLogger().addHandler(handler)
    own.setLevel(settings.level)
    try:
        yield
    finally:
        own.setLevel(before)
        logging.getLogger().removeHandler(handler)


@contextmanager
def process_logging(
    settings: LogSettings, process: str, expected: tuple[type[Exception], ...] = (KeyfrontError,)
) -> Iterator[None]:
    """Log to standard error while a process runs, and also the exception that ends it.

    :param expected: exceptions that the operator can do something about, which are logged without a traceback.
    :raises SystemExit: with status 2 in place of an expected exception, with status 1 in place of any other.
    """
    with logging_to_stderr(settings, process):
        try:
            yield
        except expected as error:
            text = os_error_text(error) if isinstance(error, OSError) else str(error)
            logging.getLogger("keyfront").error("%s", text)
            raise SystemExit(2) from None
        except Exception:
            logging.getLogger("keyfront").critical("unhandled exception", exc_info=True)
            raise SystemExit(1) from None


def timestamp(seconds: float) -> str:
    """Epoch seconds as RFC 3339, in UTC, with milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def details(record: logging.LogRecord) -> dict[str, Any]:
    """What `extra` added to the record."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: `time`, `level`, `logger`, `message`, `process`, `pid`, the details, and `exception`
    with a traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        members = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process,
            "pid": os.getpid(),
        }
        members |= {name: value for name, value in details(record).items() if name not in members}
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, default=str)


class TextFormatter(logging.Formatter):
    """`keyfront: MESSAGE`. Verbose: `TIME LEVEL PROCESS[PID] LOGGER: MESSAGE`."""

    def __init__(self, process: str, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose
        self._process = process

    def formatMessage(self, record: logging.LogRecord) -> str:
        words = [record.message, *(f"{name}={_quoted(value)}" for name, value in details(record).items())]
        if not self._verbose:
            return f"keyfront: {' '.join(words)}"
        origin = f"{self._process}[{os.getpid()}] {record.name}:"
        return " ".join([timestamp(record.created), record.levelname, origin, *words])


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
