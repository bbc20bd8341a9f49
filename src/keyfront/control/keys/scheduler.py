"""Automatic rotations: the leading control plane takes the steps that are due.

The scheduler holds no rotation rules. It watches the records of key groups, and if one is due or was changed (by an
operator's command, for example), it lets an executor take steps until there is something to wait for. A failed step is
retried with increasing delays and logged once. Of several control planes on one store, only the holder of the lease
takes steps; executors tolerate a brief overlap of two holders.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from keyfront.custody.contract import Records
from keyfront.custody.key_record import parse_record
from keyfront.errors import KeyfrontError

if TYPE_CHECKING:
    from keyfront.lifecycle.executor import Outcome, RotationExecutor

log = logging.getLogger("keyfront.rotation")

LOOK_AT_FILES = 1.0
LOOK_ELSEWHERE = 30.0
"""Seconds between two reads of the records: from files, and from a custody that a request is sent to."""
AT_ONCE = 20
"""Maximum number of steps taken for one group before the next group's turn."""
BACK = 5.0
"""Seconds by which the clock must be set back for all wait times to be computed again."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
"""Maximum seconds before a failed step is retried; the delay doubles each time."""


class LeaderLease(Protocol):
    """A lease on being the leader (`store/lease.py`)."""

    @property
    def held(self) -> bool: ...

    def renew(self) -> bool: ...

    def release(self) -> None: ...


class Scheduler:
    """Run `run` in its own thread. It returns soon after `stopping` is set, at the latest when the running step has
    finished.

    :param executor: creates an executor, in the thread that uses it, once there is a key group under rotation.
    """

    def __init__(
        self,
        records: Records,
        executor: Callable[[], RotationExecutor],
        lease: LeaderLease,
        stopping: threading.Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._make = executor
        self._lease = lease
        self._stopping = stopping
        self._clock = clock
        self._executor: RotationExecutor | None = None
        self._interval = LOOK_AT_FILES if records.uri.startswith("file:") else LOOK_ELSEWHERE
        self._versions: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._logged: dict[str, str] = {}

    def run(self) -> None:
        """Take due steps until `stopping` is set."""
        read_at = 0.0
        led = False
        before = self._clock()
        while not self._stopping.is_set():
            if not self._lease.held:
                if led:
                    log.warning("another control plane takes the rotation steps now")
                led = False
                self._stopping.wait(0.2)
                continue
            if not led:
                led = True
                log.info("leadership gained")
                self._versions.clear()  # another leader may have changed the records
                self._due.clear()
            now, at = self._clock(), time.monotonic()
            if now < before - BACK:
                self._versions.clear()  # the clock was set back: compute all wait times again
            before = now
            if at - read_at >= self._interval or any(when <= now for when in self._due.values()):
                self._round(all_=at - read_at >= self._interval)
                read_at = at if at - read_at >= self._interval else read_at
            else:
                self._stopping.wait(0.1)
        self._lease.release()

    def _round(self, *, all_: bool) -> None:
        """Let every due group take its steps.

        :param all_: whether to check for changed records as well.
        """
        try:
            names = self._records.names() if all_ else list(self._due)
        except (KeyfrontError, OSError) as error:
            self._log_once("", f"the rotation records {self._records.uri} cannot be read: {error}")
            return
        except Exception as error:
            if self._log_once(
                "", f"the rotation records {self._records.uri}: {type(error).__name__}: {error}"
            ):
                log.exception("this is a bug in Keyfront")
            return
        self._clear("")
        for name in names:
            if self._stopping.is_set() or not self._lease.held:
                return
            try:
                self._advance(name)
            except (KeyfrontError, OSError) as error:
                self._failed(name, f"the rotation of {name}: {error}")
            except Exception as error:
                if self._failed(name, f"the rotation of {name}: {type(error).__name__}: {error}"):
                    log.exception("this is a bug in Keyfront")
        if all_:
            for gone in self._versions.keys() - set(names):
                self._forget(gone)

    def _advance(self, name: str) -> None:
        record = self._records.read(name)
        if record is None:
            self._forget(name)
            return
        if self._versions.get(name) != record.version:
            self._versions[name] = record.version
            self._due[name] = self._clock()
        if self._due.get(name, float("inf")) > self._clock():
            return
        group = parse_record(record.data).group
        if self._executor is None:
            self._executor = self._make()
        for _ in range(AT_ONCE):
            outcome = self._executor.step(group)
            self._log_outcome(name, outcome)
            if not outcome.moved or outcome.raced or self._stopping.is_set() or not self._lease.held:
                break
        self._failures.pop(name, None)
        if outcome.again is None:
            self._due.pop(name, None)
        else:
            self._due[name] = outcome.again
        after = self._records.read(name)
        self._versions[name] = after.version if after is not None else ""

    def _log_outcome(self, name: str, outcome: Outcome) -> None:
        step, wait = outcome.taken, outcome.wait
        if step is not None and not outcome.error:
            log.warning("rotation of %s: %s %s: %s", outcome.group, step.action.value, step.name, step.reason)
            self._clear(name)
        elif step is not None and not outcome.raced:
            self._log_once(
                name, f"rotation of {outcome.group}: {step.action.value} {step.name} failed: {outcome.error}"
            )
        elif wait is not None and wait.attention:
            self._log_once(name, f"rotation of {outcome.group} needs attention: {wait.reason}")
        elif not outcome.error:
            self._clear(name)

    def _failed(self, name: str, message: str) -> bool:
        """Schedule a retry. True if the failure was not logged before."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._due[name] = self._clock() + min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
        return self._log_once(name, message)

    def _forget(self, name: str) -> None:
        for known in (self._versions, self._due, self._failures, self._logged):
            known.pop(name, None)

    def _log_once(self, name: str, message: str) -> bool:
        """Log the message, unless it is the last one logged for this name."""
        if self._logged.get(name) == message:
            return False
        self._logged[name] = message
        log.error("%s", message)
        return True

    def _clear(self, name: str) -> None:
        self._logged.pop(name, None)


def keep_renewing(lease: LeaderLease, every: float, stopping: threading.Event) -> None:
    """Acquire the lease as soon as it is free and renew it every `every` seconds, until `stopping` is set."""
    while not stopping.is_set():
        try:
            lease.renew()
        except Exception:
            log.exception("the lease on the rotation steps could not be renewed")
        stopping.wait(every)
