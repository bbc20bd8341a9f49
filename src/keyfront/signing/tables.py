"""Caches of computed values, bounded in bytes. Pure.

A worker caches much that it computes from viewers' input: credentials, plans, header sections, failures. Each table
counts the size of its entries, keys and values, as `measure` estimates it. All tables of a worker share one `Budget`.
When it is exhausted, the largest table drops its older half: this never causes a wrong result, only repeated work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

V = TypeVar("V")
Key = str | bytes | tuple[str | bytes, ...]

LONGEST = 4096
"""Maximum characters of a cached key."""
ENTRY = 400
"""Bytes charged per entry in addition to its key and the result of `measure`: dict slots, object headers."""


class Table(Protocol):
    """The interface of a table that a budget uses."""

    @property
    def bytes(self) -> int: ...

    def shed(self) -> None:
        """Drop the older half. Calling this twice drops everything."""


class Budget:
    """The total bytes that the tables of one worker may take.

    Tables are held weakly: the bytes of a table are free again when the table is no longer used.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tables: WeakSet[Table] = WeakSet()
        self._charged = 0  # an upper bound of the bytes in use

    @property
    def bytes(self) -> int:
        """The bytes that the tables take now."""
        return sum([table.bytes for table in self._tables])

    def add(self, table: Table) -> None:
        """Count this table from now on."""
        self._tables.add(table)

    def charge(self, size: int) -> None:
        """A table has grown by `size` bytes."""
        self._charged += size
        if self._charged > self.limit:
            self._shrink()

    def _shrink(self) -> None:
        tables = list(self._tables)
        taken = sum([table.bytes for table in tables])
        while taken > self.limit:
            largest = max(tables, key=_bytes_of)
            before = largest.bytes
            largest.shed()
            if largest.bytes == before:
                largest.shed()
            taken += largest.bytes - before
        self._charged = taken


def _bytes_of(table: Table) -> int:
    return table.bytes


class TwoGenerationCache(Generic[V]):
    """A bounded cache that keeps entries in use: two generations of plain dicts.

    New and reused entries go to the young generation. When that is full, by count or by bytes, it becomes the old one,
    and the former old one is dropped whole. So a working set of up to `entries` is never lost, at most twice as many
    are held, and a lookup costs one dict access, or two in the worst case.

    :param entries: how many one generation holds.
    :param size: bytes of one generation, as they are charged.
    :param measure: returns the bytes of a value, not counting its key.
    :param budget: the budget from which this table takes its bytes; None: it is bounded by `size` alone.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_entries",
        "_measure",
        "_old",
        "_old_bytes",
        "_size",
        "_young",
        "_young_bytes",
    )

    def __init__(
        self,
        entries: int,
        size: int,
        measure: Callable[[V], int] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._entries = entries
        self._size = size
        self._measure = measure
        self._budget = budget
        self._young: dict[Key, V] = {}
        self._old: dict[Key, V] = {}
        self._young_bytes = self._old_bytes = 0
        if budget is not None:
            budget.add(self)

    def get(self, key: Key) -> V | None:
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Key, value: V) -> None:
        length = len(key) if isinstance(key, (str, bytes)) else sum(map(len, key))
        if length > LONGEST:
            return
        size = length + ENTRY
        if self._measure is not None:
            size += self._measure(value)
        if size > self._size:
            return
        if len(self._young) >= self._entries or self._young_bytes + size > self._size:
            self.shed()
        self._young[key] = value
        self._young_bytes += size
        if self._budget is not None:
            self._budget.charge(size)

    @property
    def bytes(self) -> int:
        """The bytes charged for the entries."""
        return self._young_bytes + self._old_bytes

    def shed(self) -> None:
        self._old, self._old_bytes = self._young, self._young_bytes
        self._young, self._young_bytes = {}, 0

    def __len__(self) -> int:
        return len(self._young | self._old)
