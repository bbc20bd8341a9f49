"""Rotations without anybody's hand: in a control plane, one that leads takes the steps that are due.

It knows no rule. It looks at the records of key groups, and where one is due or was changed (by a person's order, say)
it lets a conductor take step after step until there is something to wait for. What fails comes up again, later and
later, and is told in the log once. Of several control planes on one store only the holder of the lease does it; if two
do for a moment, a conductor bears that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from keyfront.custody.contract import Records
from keyfront.custody.key_record import read_succession
from keyfront.errors import KeyfrontError

if TYPE_CHECKING:
    from keyfront.lifecycle.executor import Conductor, Outcome

log = logging.getLogger("keyfront.rotation")

LOOK_AT_FILES = 1.0
LOOK_ELSEWHERE = 30.0
"""Seconds between two looks at the records, where that is free, and where somebody is asked for them."""
AT_ONCE = 20
"""Steps of one group before it is the next one's turn."""
BACK = 5.0
"""Seconds by which a clock that is set back makes all times anew that were waited for."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
"""Seconds after which what failed is tried again; doubled each time."""


class Leading(Protocol):
    """A lease (`lease.py`)."""

    @property
    def held(self) -> bool: ...

    def renew(self) -> bool: ...

    def release(self) -> None: ...


class Scheduler:
    """Start `run` in a thread of its own; it ends soon after `stopping` is set, at the latest when the step that is
    under way has ended.

    :param conductor: makes one, in the thread that uses it; asked only if there is a key group under rotation.
    """

    def __init__(
        self,
        records: Records,
        conductor: Callable[[], Conductor],
        lease: Leading,
        stopping: threading.Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._make = conductor
        self._lease = lease
        self._stopping = stopping
        self._clock = clock
        self._conductor: Conductor | None = None
        self._look = LOOK_AT_FILES if records.uri.startswith("file:") else LOOK_ELSEWHERE
        self._versions: dict[str, str] = {}
        self._again: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._said: dict[str, str] = {}

    def run(self) -> None:
        looked = 0.0
        led = False
        before = self._clock()
        while not self._stopping.is_set():
            if not self._lease.held:
                if led:
                    log.warning("another control plane takes the steps of rotations now")
                led = False
                self._stopping.wait(0.2)
                continue
            if not led:
                led = True
                self._versions.clear()  # what happened meanwhile is not known
                self._again.clear()
            now, at = self._clock(), time.monotonic()
            if now < before - BACK:
                self._versions.clear()  # the clock was set back: what was to come at some time comes up now
            before = now
            if at - looked >= self._look or any(when <= now for when in self._again.values()):
                self._round(all_=at - looked >= self._look)
                looked = at if at - looked >= self._look else looked
            else:
                self._stopping.wait(0.1)
        self._lease.release()

    def _round(self, *, all_: bool) -> None:
        """Let every group that is due take its steps. `all_`: look also for those that were changed."""
        try:
            names = self._records.names() if all_ else list(self._again)
        except (KeyfrontError, OSError) as error:
            self._tell("", f"the records of rotations {self._records.uri} cannot be read: {error}")
            return
        except Exception as error:
            if self._tell(
                "", f"the records of rotations {self._records.uri}: {type(error).__name__}: {error}"
            ):
                log.exception("a fault of Keyfront's own")
            return
        self._quiet("")
        for name in names:
            if self._stopping.is_set() or not self._lease.held:
                return
            try:
                self._see(name)
            except (KeyfrontError, OSError) as error:
                self._failed(name, f"the rotation of {name}: {error}")
            except Exception as error:
                if self._failed(name, f"the rotation of {name}: {type(error).__name__}: {error}"):
                    log.exception("a fault of Keyfront's own")
        if all_:
            for gone in self._versions.keys() - set(names):
                self._forget(gone)

    def _see(self, name: str) -> None:
        record = self._records.read(name)
        if record is None:
            self._forget(name)
            return
        if self._versions.get(name) != record.version:
            self._versions[name] = record.version
            self._again[name] = self._clock()
        if self._again.get(name, float("inf")) > self._clock():
            return
        group = read_succession(record.data).group
        if self._conductor is None:
            self._conductor = self._make()
        for _ in range(AT_ONCE):
            outcome = self._conductor.step(group)
            self._told(name, outcome)
            if not outcome.moved or outcome.raced or self._stopping.is_set() or not self._lease.held:
                break
        self._failures.pop(name, None)
        if outcome.again is None:
            self._again.pop(name, None)
        else:
            self._again[name] = outcome.again
        after = self._records.read(name)
        self._versions[name] = after.version if after is not None else ""

    def _told(self, name: str, outcome: Outcome) -> None:
        step, wait = outcome.taken, outcome.wait
        if step is not None and not outcome.error:
            log.warning("rotation of %s: %s %s: %s", outcome.group, step.action.value, step.name, step.reason)
            self._quiet(name)
        elif step is not None and not outcome.raced:
            self._tell(
                name, f"rotation of {outcome.group}: {step.action.value} {step.name} failed: {outcome.error}"
            )
        elif wait is not None and wait.attention:
            self._tell(name, f"rotation of {outcome.group} needs somebody: {wait.reason}")
        elif not outcome.error:
            self._quiet(name)

    def _failed(self, name: str, message: str) -> bool:
        """Try again later. True if it is the first time."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._again[name] = self._clock() + min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
        return self._tell(name, message)

    def _forget(self, name: str) -> None:
        for known in (self._versions, self._again, self._failures, self._said):
            known.pop(name, None)

    def _tell(self, name: str, message: str) -> bool:
        """In the log, unless it was the last thing said of it."""
        if self._said.get(name) == message:
            return False
        self._said[name] = message
        log.error("%s", message)
        return True

    def _quiet(self, name: str) -> None:
        self._said.pop(name, None)


def keep(lease: Leading, every: float, stopping: threading.Event) -> None:
    """Take the lease whenever it can be had, and prolong it, until `stopping` is set."""
    while not stopping.is_set():
        try:
            lease.renew()
        except Exception:
            log.exception("whether this control plane takes the steps of rotations is not known")
        stopping.wait(every)
