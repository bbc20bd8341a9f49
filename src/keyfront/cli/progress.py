"""Progress of long work, on a terminal only: a bar where the amount of work is known, otherwise the last step."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Called with the amount of work that is done, and the amount in all."""


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """A bar on standard error while the context lasts; nothing if standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def progress_steps(title: str, logger: str) -> Iterator[None]:
    """A line on standard error with the last step that was logged, while the context lasts; nothing if standard error
    is not a terminal, or shows the log.

    :param logger: the name of the logger that the work logs its steps to, at level INFO.
    """
    log = logging.getLogger(logger)
    if not sys.stderr.isatty() or log.isEnabledFor(logging.INFO):
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title)
        handler = _Steps(lambda text: shown.update(task, description=f"{title}: {text}"))
        before, propagates = log.level, log.propagate
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before)
            log.propagate = propagates


class _Steps(logging.Handler):
    """Shows informational records as steps, and leaves the others to the handlers above."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            logging.getLogger().handle(record)
        else:
            self._show(record.getMessage())
