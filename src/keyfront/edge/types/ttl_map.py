"""A bounded map with expiring entries, for what a worker has learned about a key and needs for a while: that its origin
failed, or that its responses cannot be shared. The oldest entry is dropped first: a dropped entry costs a request to
the origin, never a wrong response."""

from __future__ import annotations

from typing import Generic, TypeVar

from keyfront.signing.tables import ENTRY, Budget

T = TypeVar("T")


class TtlMap(Generic[T]):
    """Values by key, each with its own expiry time (epoch seconds), at most `size` of them.

    :param budget: the budget that the entries' bytes are charged to: keys are cache keys, of up to 30 KB.
    """

    __slots__ = ("__weakref__", "_budget", "_entries", "_size", "bytes")

    def __init__(self, size: int = 10_000, budget: Budget | None = None) -> None:
        self._entries: dict[str, tuple[float, T]] = {}
        self._size = size
        self._budget = budget
        self.bytes = 0
        """Bytes charged for the entries."""
        if budget is not None:
            budget.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, value: T, until: float) -> None:
        self.drop(key)
        if len(self._entries) >= self._size:
            self.drop(next(iter(self._entries)))
        self._entries[key] = (until, value)
        self.bytes += _charge(key)
        if self._budget is not None:
            self._budget.charge(_charge(key))

    def get(self, key: str, now: float) -> T | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, value = entry
        if now < until:
            return value
        self.drop(key)
        return None

    def left(self, key: str, now: float) -> float:
        """Seconds until the key's value expires; 0 if it has none."""
        entry = self._entries.get(key)
        return max(0.0, entry[0] - now) if entry is not None else 0.0

    def drop(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            self.bytes -= _charge(key)

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def shed(self) -> None:
        """Drop the older half of the entries; a single entry is dropped, too."""
        for key in list(self._entries)[: (len(self._entries) + 1) // 2]:
            self.drop(key)


def _charge(key: str) -> int:
    return len(key) + ENTRY
