"""How fast a viewer must be. Pure: `now` is the loop's time in seconds, and bytes are counted by the caller.

A limit on silence alone lets a peer hold a connection for ever at one byte a minute. A floor asks for a number of bytes
in each window in which the peer had something to do; what it does between two looks does not matter, so a phone on a
bad network passes.
"""

from __future__ import annotations


class Floor:
    """A minimum rate over windows. Call `slow` from time to time while the peer is the one who is waited for, and
    `rest` whenever it is not."""

    __slots__ = ("_bytes", "_owed", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._bytes = 0
        self._owed: int | None = None

    def rest(self) -> None:
        """The peer is not waited for: the next window begins when it is again."""
        self._since = None

    def slow(self, now: float, moved: int, rate: int, window: float, *, owed: int | None = None) -> bool:
        """Has the peer moved less than `rate` bytes a second in a whole window?

        :param moved: bytes that have been moved in all, never fewer than before.
        :param rate: bytes a second; 0 asks for nothing.
        :param window: seconds.
        :param owed: bytes that wait for the peer now. Who has moved all that waited when the window began is not slow:
            there was no more to take, as with an answer that comes in small events. None: as many as the peer likes.
        """
        if self._since is None:
            self._since, self._bytes, self._owed = now, moved, owed
            return False
        if now - self._since < window:
            return False
        due = rate * (now - self._since)
        if self._owed is not None:
            due = min(due, self._owed)
        slow = moved - self._bytes < due
        self._since, self._bytes, self._owed = now, moved, owed
        return slow
