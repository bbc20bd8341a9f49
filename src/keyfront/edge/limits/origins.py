"""Limits on one worker's concurrent requests to an origin, and a circuit breaker for origins that are down. Pure:
`now` is the event loop's time in seconds.

The breaker is the usual state machine (M. Nygard, Release It!, 2007):

    closed ── N connection failures in a row ──► open ── after `pause` ──► half-open (one probe)
       ▲                                          ▲                            │
       └──────────────── it connected ────────────┼────────────────────────────┤
                                                  └──── it failed again ───────┘
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class OriginLimits(msgspec.Struct, frozen=True):
    """Limits for one origin (a host and a port), per worker. At most `connections` requests may be in progress at a
    time, and at most `queue` more may wait for a slot, each for at most `queue_timeout` seconds. After `failures`
    failed connections in a row, no connection is tried for `pause` seconds. `connections` = 0 means no limit,
    `failures` = 0 no breaker."""

    connections: int = 512
    queue: int = 1_024
    queue_timeout: float = 10.0
    failures: int = 5
    pause: float = 2.0


class Breaker:
    """The circuit breaker of one origin: decides whether a connection may be tried."""

    __slots__ = ("_failed", "_failures", "_pause", "_probing", "_until")

    def __init__(self, failures: int, pause: float) -> None:
        self._failures = failures
        self._pause = pause
        self._failed = 0
        self._until: float | None = None  # open until then; None if closed
        self._probing = False

    @property
    def closed(self) -> bool:
        return self._until is None

    def permits(self, now: float) -> bool:
        """Whether a connection may be tried now. If so, the caller must report the outcome with `succeeded`, `failed`,
        or `given_up`."""
        if self._until is None:
            return True
        if now < self._until or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failed = 0
        self._until = None
        self._probing = False

    def failed(self, now: float) -> bool:
        """Record a failed connection. Returns whether it opened the breaker."""
        self._failed += 1
        opened = self._until is None and self._failed >= self._failures > 0
        if opened or self._probing:
            self._until = now + self._pause
        self._probing = False
        return opened

    def given_up(self) -> None:
        """The attempt ended before its outcome was known. It counts as neither success nor failure, and another
        attempt may probe."""
        self._probing = False


class Slots(Generic[T]):
    """Request slots of an origin: `limit` of them (0 means no limit), and a bounded first-in, first-out queue. A token
    of the caller's waits in the queue; `give_up` removes it."""

    __slots__ = ("_limit", "_queue", "active", "waiting")

    def __init__(self, limit: int, queue: int) -> None:
        self._limit = limit
        self._queue = queue
        self.active = 0
        self.waiting: deque[T] = deque()

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.active >= self._limit > 0:
            return False
        self.active += 1
        return True

    def wait(self, token: T) -> bool:
        """Join the queue. Returns False if the queue is full."""
        if len(self.waiting) >= self._queue:
            return False
        self.waiting.append(token)
        return True

    def give_up(self, token: T) -> None:
        """Leave the queue."""
        if token in self.waiting:
            self.waiting.remove(token)

    def release(self) -> T | None:
        """Release a slot. Returns the token that now holds it, or None if none was waiting."""
        if self.waiting:
            return self.waiting.popleft()
        self.active -= 1
        return None

    @property
    def idle(self) -> bool:
        return not self.active and not self.waiting
