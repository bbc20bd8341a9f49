"""Heartbeats of the processes on one machine, in shared memory.

The supervisor creates a `Board` with one slot per process and passes its file descriptor to the processes. Each process
writes the monotonic time into its own slot several times a second, from its event loop; the supervisor and the other
processes read it. CLOCK_MONOTONIC is common to all processes of a machine, so no process compares two clocks.

A slot is a row of 64-bit integers, each written by one process and with one store, so no lock is needed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from enum import IntFlag
from typing import Final

BEAT: Final = 0.1
"""Seconds between two heartbeats of a process."""
AWAY: Final = 1.0
"""Seconds without a heartbeat after which the other workers accept a worker's connections for it."""
SILENT: Final = 3.0
"""Seconds without a heartbeat after which `/healthz` reports a process."""
STUCK: Final = 10.0
"""Seconds without a heartbeat after which the supervisor kills a process and starts it again (the default)."""

_WIDTH: Final = 8
"""Integers in a slot; 64 bytes, so that no two processes write into one cache line."""
_BEAT, _ACCEPTING, _TROUBLE, _RESTARTS, _KILLS = range(5)


class Trouble(IntFlag):
    """The operations that failed at a worker's last attempt."""

    ACCESS_LOG = 1
    REPORT = 2
    CACHE_DISK = 4


class Silence:
    """For how long a process has had no heartbeat, as another process sees it that looks at it again and again. Time in
    which that one did not run, perhaps suspended with the whole machine, does not count.

    :param began: when it begins to look, seconds of `time.monotonic()`.
    :param interval: seconds between two looks.
    """

    def __init__(self, began: float, interval: float) -> None:
        self._began = self._looked = began
        self._interval = interval
        self._uncounted = 0.0

    def seconds(self, last: float, now: float) -> float:
        """Look at `now`.

        :param last: the time of the last heartbeat; 0.0: none yet.
        """
        last = max(last, self._began)
        if last > self._looked:
            self._uncounted = 0.0
        elif now - self._looked > self._interval + 1:
            self._uncounted += now - self._looked
        self._looked = now
        return now - last - self._uncounted


class Board:
    """Heartbeats in shared memory. Times are seconds of `time.monotonic()`.

    :param fd: from `create`, possibly inherited. The caller keeps ownership and may close it afterward.
    :param slots: the number of processes.
    """

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        # The first slot belongs to the board: whether its processes are stopping, and whether the entire installation
        # is about to.
        self._map = mmap.mmap(fd, (slots + 1) * _WIDTH * 8)
        self._cells = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, slots: int) -> Board:
        """Create a board in anonymous memory.

        :raises OSError: if there is no memory or file descriptor left.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("keyfront-heartbeats", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, (slots + 1) * _WIDTH * 8)
        return cls(fd, slots)

    def _at(self, slot: int, column: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(f"there is no slot {slot}")
        return (slot + 1) * _WIDTH + column

    # -- written by the process itself

    def beat(self, slot: int, now: float) -> None:
        """Record a heartbeat of this slot's process."""
        self._cells[self._at(slot, _BEAT)] = int(now * 1e9)

    def accept(self, slot: int, accepting: bool) -> None:
        """Record whether this slot's worker accepts connections on its own sockets."""
        self._cells[self._at(slot, _ACCEPTING)] = accepting

    def set_trouble(self, slot: int, trouble: Trouble) -> None:
        """Record what this slot's worker currently cannot do."""
        self._cells[self._at(slot, _TROUBLE)] = trouble

    # -- written by the supervisor

    def clear(self, slot: int) -> None:
        """Reset the slot of a process that is gone."""
        for column in (_BEAT, _ACCEPTING, _TROUBLE):
            self._cells[self._at(slot, column)] = 0

    def count(self, slot: int, *, killed: bool) -> None:
        """Count a restart of this slot's process. `killed`: whether the supervisor killed it because it was stuck."""
        self._cells[self._at(slot, _RESTARTS)] += 1
        self._cells[self._at(slot, _KILLS)] += killed

    def leave(self) -> None:
        """Record that the installation is about to stop: health checks of load balancers fail from now on."""
        self._cells[1] = 1

    def stop(self) -> None:
        """Record that the processes are stopping: from now on, no worker accepts connections for another."""
        self._cells[0] = 1

    # -- read by all processes

    @property
    def leaving(self) -> bool:
        """True once `leave` was called."""
        return bool(self._cells[1])

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return bool(self._cells[0])

    def last(self, slot: int) -> float:
        """The time of the last heartbeat; 0.0 if there was none since the process started."""
        return self._cells[self._at(slot, _BEAT)] / 1e9

    def silence(self, slot: int, now: float) -> float:
        """Seconds since the last heartbeat; infinite if there was none since the process started."""
        last = self._cells[self._at(slot, _BEAT)]
        return max(now - last / 1e9, 0.0) if last else float("inf")

    def accepts(self, slot: int, now: float) -> bool:
        """True if this slot's worker accepts its connections itself."""
        return bool(self._cells[self._at(slot, _ACCEPTING)]) and self.silence(slot, now) <= AWAY

    def trouble(self, slot: int) -> Trouble:
        """What this slot's worker currently cannot do."""
        return Trouble(self._cells[self._at(slot, _TROUBLE)] & 7)

    def restarts(self, slot: int) -> tuple[int, int]:
        """How many times the process was restarted, and how many of those restarts were because it was stuck."""
        return self._cells[self._at(slot, _RESTARTS)], self._cells[self._at(slot, _KILLS)]

    def close(self) -> None:
        """Release the memory and the file descriptor."""
        self._cells.release()
        self._map.close()
        os.close(self.fd)
