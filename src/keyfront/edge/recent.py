"""What a worker has learned about a key and should know for a while: that its origin failed, that its answers cannot
be shared. Bounded, oldest first out: to forget one of these costs a request to the origin, never a wrong answer."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, each until its own end (epoch seconds), at most `size` of them."""

    __slots__ = ("_entries", "_size")

    def __init__(self, size: int = 10_000) -> None:
        self._entries: dict[str, tuple[float, T]] = {}
        self._size = size

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, value: T, until: float) -> None:
        self._entries.pop(key, None)
        if len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (until, value)

    def get(self, key: str, now: float) -> T | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, value = entry
        if now < until:
            return value
        del self._entries[key]
        return None

    def left(self, key: str, now: float) -> float:
        """For how many seconds more it has a value; 0 if it has none."""
        entry = self._entries.get(key)
        return max(0.0, entry[0] - now) if entry is not None else 0.0

    def drop(self, key: str) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()
