"""The truth: the expected state at each moment, for the origin's behavior and the judge's verdicts. Times are epoch
seconds, as in credentials; everything runs on one machine and one clock."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict, deque
from typing import Final, NamedTuple

from soak.objects import Item

EFFECT: Final = 1.0
"""Seconds after the API's response within which a change must reach every worker."""
AFTER_FAULT: Final = 5.0
"""Seconds for which a fault may still have an effect: the edge's attempts (two of two seconds each), and an error
cached for one second."""
STANDSTILL: Final = 2.0
"""Seconds without running from which this process assumes that the machine (or the processes) was suspended: delays
prove nothing then."""
AFTER_KILL: Final = 1.0
"""Seconds after a kill within which viewers may still be connected to the killed process."""


class Switch:
    """A fact that the operator switches on and off: a key's membership in its group, an alias, a distribution."""

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self.since = 0.0
        self.changing: float | None = None

    def begin(self) -> None:
        """Record that a call that changes the fact is about to be made; its state is undetermined until `settle`."""
        if self.changing is None:
            self.changing = time.time()

    def settle(self, on: bool) -> None:
        """Record that the API has just responded: the state is now `on`."""
        self.on = on
        self.since = time.time()
        self.changing = None

    def verdict(self, sent: float, answered: float) -> bool | None:
        """The state for a request at that time; None: either."""
        if self.changing is not None and self.changing <= answered:
            return None
        return None if sent < self.since + EFFECT else self.on


class Window(NamedTuple):
    begin: float
    end: float


class Truth:
    def __init__(self, items: dict[str, Item]) -> None:
        self.items = items
        self.began = time.time()
        self._versions: dict[str, list[float]] = {path: [self.began - 1000.0] for path in items}
        self.faults: dict[str, tuple[str, float]] = {}
        """By path: the fault there, and when it ends."""
        self._faults_at: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=256))
        self.dead: list[Window] = []
        self.hangups: deque[float] = deque(maxlen=256)
        """Times at which the origin closed a connection without notice."""
        self.kills: list[float] = []
        self.control_kills: list[float] = []
        self.beat = time.time()
        self.standstills: list[Window] = []
        self._floors: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self.leaks: list[str] = []
        """What the origin received although it must never leave the edge."""
        self.notes: deque[str] = deque(maxlen=400)

    def note(self, text: str) -> None:
        """Record an event, for the reader of a violation."""
        self.notes.append(f"{time.time() - self.began:8.3f} {text}")

    # -- versions ----------------------------------------------------------------------------------------------------

    def is_versioned(self, path: str) -> bool:
        return path in self._versions

    def version(self, path: str) -> int:
        """The version that the origin has now. The first is 1."""
        return len(self._versions[path])

    def born(self, path: str, version: int) -> float:
        return self._versions[path][version - 1]

    def superseded(self, path: str, version: int) -> float | None:
        """When the next version was published; None if there is none yet."""
        times = self._versions[path]
        return times[version] if version < len(times) else None

    def version_at(self, path: str, moment: float) -> int:
        return bisect_right(self._versions[path], moment)

    def bump(self, path: str) -> bool:
        """Publish a new version, unless the last one is too recent for Last-Modified to distinguish."""
        times = self._versions[path]
        now = time.time()
        if now - times[-1] < 2.0:
            return False
        times.append(now)
        return True

    # -- invalidations -----------------------------------------------------------------------------------------------

    def ended(self, paths: dict[str, int], moment: float) -> None:
        """Record that nothing older than these versions may be served from `moment` on."""
        for path, version in paths.items():
            floors = self._floors[path]
            floors.append((moment, version))
            del floors[:-16]

    def floor(self, path: str, sent: float) -> int:
        return max((version for moment, version in self._floors[path] if moment <= sent), default=0)

    # -- faults and kills --------------------------------------------------------------------------------------------

    def fault(self, path: str) -> str:
        kind, until = self.faults.get(path, ("", 0.0))
        return kind if time.time() < until else ""

    def note_fault(self, path: str) -> None:
        """Record that a response of the origin was just corrupted."""
        self._faults_at[path].append(time.time())

    def troubled(self, path: str, sent: float, answered: float, before: float = AFTER_FAULT) -> bool:
        """True if the origin failed for this path in a way that may affect a response of that time."""
        begin = sent - before
        if any(begin <= moment <= answered for moment in self._faults_at[path]):
            return True
        return any(window.begin <= answered and begin <= window.end for window in self.dead)

    def hung_up(self, sent: float, answered: float) -> bool:
        return any(sent - 2.0 <= moment <= answered for moment in self.hangups)

    def pulse(self) -> None:
        """Detect suspensions of this process. Call it many times a second."""
        now = time.time()
        if now - self.beat > STANDSTILL:
            self.standstills.append(Window(self.beat, now))
            self.note(f"nothing ran for {now - self.beat:.1f} s")
        self.beat = now

    def stood_still(self, begin: float) -> bool:
        """True if the machine was suspended since `begin`, or so shortly before that it may still have an effect."""
        self.pulse()
        return any(begin - 10.0 <= window.end for window in self.standstills)

    def hit_by_kill(self, used: float, failed: float) -> bool:
        """True if a kill may have cut a connection that was opened or last received a response at `used`."""
        return any(used - AFTER_KILL <= moment <= failed for moment in self.kills)
