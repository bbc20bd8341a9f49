"""The minimum transfer rate required of a viewer. Pure: `now` is the event loop's time in seconds, and the caller
counts the bytes.

An idle timeout alone lets a peer hold a connection forever at one byte a minute. A floor requires a number of bytes in
each window during which the peer had something to transfer. How they are spread within the window does not matter, so
a phone on a bad network passes.
"""

from __future__ import annotations


class Floor:
    """A minimum rate over windows. Call `slow` regularly while the peer is being waited for, and `rest` whenever it is
    not."""

    __slots__ = ("_bytes", "_since", "_waiting")

    def __init__(self) -> None:
        self._since: float | None = None
        self._bytes = 0
        self._waiting: int | None = None

    def rest(self) -> None:
        """Not waiting for the peer: the next window begins at the next call of `slow`."""
        self._since = None

    def slow(self, now: float, moved: int, rate: int, window: float, *, waiting: int | None = None) -> bool:
        """Whether the peer has transferred less than `rate` bytes per second over a whole window.

        :param now: seconds.
        :param moved: total bytes transferred so far; never decreases.
        :param rate: bytes per second; 0 requires nothing.
        :param window: seconds.
        :param waiting: bytes now waiting for the peer. A peer that has transferred everything that was waiting when the
            window began is not slow: there was nothing more to take, as with an answer that arrives in small events.
            None means no upper bound.
        """
        if self._since is None:
            self._since, self._bytes, self._waiting = now, moved, waiting
            return False
        if now - self._since < window:
            return False
        due = rate * (now - self._since)
        if self._waiting is not None:
            due = min(due, self._waiting)
        slow = moved - self._bytes < due
        self._since, self._bytes, self._waiting = now, moved, waiting
        return slow
