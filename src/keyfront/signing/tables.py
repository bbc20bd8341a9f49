"""Tables of what was worked out before, bounded in bytes. Pure.

A worker remembers much that follows from what viewers send: credentials, plans, header sections, failures. Each table
counts what its entries take, keys and values, as `measure` reckons them. All tables of a worker share one `Budget`.
When it is spent, the largest table forgets its older half: never an answer that is wrong, only work that is done again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

V = TypeVar("V")
Key = str | bytes | tuple[str | bytes, ...]

LONGEST = 4096
"""Characters of the longest key that is remembered."""
ENTRY = 400
"""Bytes that an entry is charged beside its key and what `measure` says: dict slots, object headers."""


class Table(Protocol):
    """What a budget needs of a table."""

    @property
    def bytes(self) -> int: ...

    def shed(self) -> None:
        """Forget the older half. Called twice, it forgets everything."""


class Budget:
    """Bytes that the tables of one worker may take together.

    Tables are held weakly: what a table has taken is free again when nobody uses the table any more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tables: WeakSet[Table] = WeakSet()
        self._charged = 0  # at least as much as is taken

    @property
    def bytes(self) -> int:
        """Bytes that the tables take now."""
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


class Remembered(Generic[V]):
    """A bounded table that keeps what is used: two generations of plain dicts.

    New and re-used entries go to the young one. When that is full, by count or by bytes, it becomes the old
    one and the former old one is dropped whole. So a working set of up to `entries` is never lost, at most
    twice as many are held, and a look-up costs one dict access, two at the worst.

    :param entries: how many one generation holds.
    :param size: bytes of one generation, as they are charged.
    :param measure: bytes of a value, beside those of its key.
    :param budget: of which this table takes its bytes; None: it is bounded by `size` alone.
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
        """Bytes that the entries are charged."""
        return self._young_bytes + self._old_bytes

    def shed(self) -> None:
        self._old, self._old_bytes = self._young, self._young_bytes
        self._young, self._young_bytes = {}, 0

    def __len__(self) -> int:
        return len(self._young | self._old)
