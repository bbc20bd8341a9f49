"""What a worker has learned about a key and should know for a while: that its origin failed, that its answers cannot
be shared. Bounded, oldest first out: to forget one of these costs a request to the origin, never a wrong answer."""

from __future__ import annotations

from typing import Generic, TypeVar

from keyfront.signing.tables import ENTRY, Budget

T = TypeVar("T")


class TtlMap(Generic[T]):
    """Values by key, each until its own end (epoch seconds), at most `size` of them.

    :param budget: whose bytes the entries take: keys are cache keys, of up to 30 KB.
    """

    __slots__ = ("__weakref__", "_budget", "_entries", "_size", "bytes")

    def __init__(self, size: int = 10_000, budget: Budget | None = None) -> None:
        self._entries: dict[str, tuple[float, T]] = {}
        self._size = size
        self._budget = budget
        self.bytes = 0
        """Bytes that the entries are charged."""
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
        """For how many seconds more it has a value; 0 if it has none."""
        entry = self._entries.get(key)
        return max(0.0, entry[0] - now) if entry is not None else 0.0

    def drop(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            self.bytes -= _charge(key)

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def shed(self) -> None:
        """Forget the older half, of one entry that one."""
        for key in list(self._entries)[: (len(self._entries) + 1) // 2]:
            self.drop(key)


def _charge(key: str) -> int:
    return len(key) + ENTRY
