"""The process that delivers standard logs. It starts when there is something to deliver, and is never in the way of a
request: everything it does is in files (`edge.logs.delivery`)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import time
from pathlib import Path
from typing import Final

from keyfront.edge.logs.delivery import Destination, Outbox
from keyfront.edge.logs.delivery_settings import DeliverySettings
from keyfront.edge.logs.spool import FOLDER
from keyfront.errors import SettingsError
from keyfront.runtime.log_destinations import open_destinations

logger = logging.getLogger("keyfront.logs")

FIRST_RETRY: Final = 5.0
"""Seconds after a failed delivery until it is tried again; the delay doubles up to the interval."""
LAST_DELIVERY: Final = 20.0
"""Seconds that the last delivery may take, after the request to stop. What it does not reach waits on the disk."""


class _Stop(BaseException):
    """The process was asked to stop, or took too long to."""


def main(settings: DeliverySettings) -> None:
    """Deliver until SIGTERM, or until the parent exits. Two inherited pipes are named in the environment: the lifeline,
    and the one to write to when the process is ready."""
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])
    folder = Path(settings.data) / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deliverer = _Deliverer(settings)
    # A handler does not interrupt a system call that begins just after the signal; the written byte ends it at once.
    signaled, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: the lifeline ends this process
            os.write(ready, b"ready\n")
        os.close(ready)
        while not _locked(lock):  # the process from before a restart may still be at work
            _wait(lifeline, signaled, 0.2)
        while True:
            _wait(lifeline, signaled, deliverer.deliver())
    except _Stop:
        if _locked(lock):
            deliverer.deliver_last()


def _stop(*_: object) -> None:
    """Interrupt whatever the process does: every step is safe at any moment."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise _Stop


def _wait(lifeline: int, signaled: int, seconds: float) -> None:
    """:raises _Stop: if the parent has exited, or a signal has arrived."""
    if select.select([lifeline, signaled], [], [], seconds)[0]:
        raise _Stop


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Deliverer:
    """Delivers again and again."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._retry = FIRST_RETRY
        self._destinations: dict[str, Destination] = {}

    def deliver(self) -> float:
        """Deliver everything that there is. Returns the seconds until the next time."""
        interval = self._settings.interval
        outbox: Outbox | None = None
        try:
            outbox = Outbox(self._settings)
            outbox.collect(time.time())
            outbox.render()
            self._destinations = self._destinations or open_destinations(self._settings)
            outbox.deliver(self._destinations, time.time())
            if not outbox.status.problem:
                self._retry = FIRST_RETRY
                return interval
        except (OSError, SettingsError) as error:
            if outbox is None:
                logger.warning("standard logs cannot be delivered: %s", error)
            else:
                with contextlib.suppress(OSError):  # such as a full disk: it has been logged
                    outbox.report(str(error))
        wait, self._retry = min(self._retry, interval), min(self._retry * 2, interval)
        return wait

    def deliver_last(self) -> None:
        """Deliver what workers have written until they stopped, unless that takes too long."""
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, LAST_DELIVERY)
        try:
            self.deliver()
        except _Stop:
            logger.warning("the last log files could not be delivered in time, and wait in the data folder")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
