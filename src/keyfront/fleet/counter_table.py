"""The counters of a machine's workers in shared memory: workers write them, and another process reads them for
`/metrics`.

The supervisor creates the memory and divides it into slots. A slot belongs to one worker at a time. The next worker in
a slot continues its counters, so their sums over all slots never decrease, however workers end. A worker counts in its
own memory and adds to its slot whenever it writes its access log, so one that is killed loses only what it had not
written there either.

A slot is a row of 64-bit integers followed by the names of its series: JSON lines in the order of their integers. It
has one writer, which stores each integer with one instruction, and publishes a series by raising the number of integers
in use after its name is complete. So no lock is needed.

The memory is sparse: only pages that were written to take space. There are two banks of slots, because workers of two
generations run side by side during a reload.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, repeat
from operator import sub
from typing import Final

import msgspec

from keyfront.fleet.edge_counters import BY_NAME, FAMILIES, MAX_TEXT, OTHER, Family, Kind, Series

BANKS: Final = 2
BANK: Final = 256
"""Slots in a bank: the most workers that a machine can have."""

_CELLS: Final = 24 * 1024
_HEADER: Final = 8
_FORMAT, _USED, _NAME_BYTES, _MEASURED = range(4)
_NAMES_AT: Final = (_HEADER + _CELLS) * 8
_SLOT_BYTES: Final = 3 << 20
_NAMES: Final = _SLOT_BYTES - _NAMES_AT

FRESH: Final = 5.0
"""Seconds after which the gauges of a worker that does not measure any more are ignored."""
ABSENT: Final = -(1 << 63)
"""A gauge without a value."""

_FINGERPRINT: Final = zlib.crc32(
    repr([(family.name, family.labels, family.cells, family.bounds, family.scale) for family in FAMILIES]).encode()
) + 1  # fmt: skip


class CounterTable:
    """The counters of one worker, in a slot or in its own memory.

    :param shared: whether another process shows them.
    """

    def __init__(self, memory: mmap.mmap, *, shared: bool = False) -> None:
        self.shared = shared
        self._memory = memory
        integers = memoryview(memory)[:_NAMES_AT].cast("q")
        self._header, self.cells = integers[:_HEADER], integers[_HEADER:]
        """The integers of all series. `Cells` says where those of a series are."""
        if self._header[_FORMAT] != _FINGERPRINT:  # new, or from another version
            self._header[_USED] = self._header[_NAME_BYTES] = self._header[_MEASURED] = 0
            self._header[_FORMAT] = _FINGERPRINT
        self._families = {family.name: Cells(self, family) for family in FAMILIES}
        used = end = 0
        for family, labels, name_end in _parsed(_names(memory, self._header), self._header[_USED]):
            self._families[family.name][labels] = used
            used += family.cells
            end = name_end
        self._header[_NAME_BYTES] = end  # without a name whose integers were not in use yet
        self._base = self.cells[:used].tolist()
        self._reset_gauges()

    @classmethod
    def private(cls) -> CounterTable:
        """Counters in this process's own memory."""
        return cls(mmap.mmap(-1, _SLOT_BYTES))

    @classmethod
    def attached(cls, fd: int, slot: int) -> CounterTable:
        """The counters in a slot, which this process now continues.

        :raises OSError, ValueError: if the memory cannot be used.
        """
        return cls(mmap.mmap(fd, _SLOT_BYTES, offset=slot * _SLOT_BYTES), shared=True)

    def of(self, family: Family) -> Cells:
        """Where the integers of a family's series are."""
        return self._families[family.name]

    def set(self, family: Family, value: float) -> None:
        """Set a gauge, in the family's unit."""
        self.cells[self.of(family)[()]] = round(value * family.scale)

    def advance(self, family: Family, labels: tuple[str, ...], value: int) -> None:
        """Set a counter to what this process has counted, beyond what its predecessors in the slot had."""
        at = self.of(family)[labels]
        self.cells[at] = (self._base[at] if at < len(self._base) else 0) + value

    def measured(self, now: float) -> None:
        """Record that the gauges are valid at `now` (seconds of `time.monotonic()`); 0: that they are not any more."""
        self._header[_MEASURED] = int(now * 1e9)

    def since_start(self) -> list[Series]:
        """What this process has counted, and its gauges. Series with labels that have not changed are left
        out."""
        now = self.cells[: self._header[_USED]].tolist()
        counted = list(map(sub, now, chain(self._base, repeat(0))))
        found: list[Series] = []
        for name, series in self._families.items():
            family = BY_NAME[name]
            if family.kind is Kind.GAUGE:
                found += [(name, labels, (now[at],)) for labels, at in series.items() if now[at] != ABSENT]
            elif family.cells == 1:
                found += [
                    (name, labels, (counted[at],))
                    for labels, at in series.items()
                    if counted[at] or not labels
                ]
            else:
                width = family.cells
                every = [(labels, tuple(counted[at : at + width])) for labels, at in series.items()]
                found += [(name, labels, cells) for labels, cells in every if any(cells)]
        return found

    def _all(self) -> Iterator[tuple[Family, tuple[str, ...], int]]:
        for name, cells in self._families.items():
            for labels, at in cells.items():
                yield BY_NAME[name], labels, at

    def _reset_gauges(self) -> None:
        self.measured(0.0)
        for family, _, at in self._all():
            if family.kind is Kind.GAUGE:
                self.cells[at] = ABSENT

    def add_series(self, family: Family, labels: tuple[str, ...]) -> int | None:
        """Add a series. Returns where its integers are, None if there is no room for it."""
        header = self._header
        used, end = header[_USED], header[_NAME_BYTES]
        name = msgspec.json.encode((family.name, labels)) + b"\n"
        if used + family.cells > _SPILL or end + len(name) > _NAMES:
            return None
        self._memory[_NAMES_AT + end : _NAMES_AT + end + len(name)] = name
        for at in range(used, used + family.cells):
            self.cells[at] = 0
        header[_NAME_BYTES] = end + len(name)
        header[_USED] = used + family.cells
        return used


class Cells(dict[tuple[str, ...], int]):
    """Where the integers of each series of a family are, by the values of its labels. A series is added when it is
    first looked up; beyond the family's limit, the series `other` is used."""

    __slots__ = ("_family", "_table")

    def __init__(self, table: CounterTable, family: Family) -> None:
        super().__init__()
        self._table = table
        self._family = family

    def __missing__(self, labels: tuple[str, ...]) -> int:
        other = (OTHER,) * len(labels)
        # One series is left for what does not fit; the memory has room for all families up to their limits.
        fits = len(self) < self._family.limit and all(
            len(label) <= MAX_TEXT and label.isprintable() for label in labels
        )
        if not fits and labels != other:
            return self[other]
        at = self._table.add_series(self._family, labels)
        if at is None:
            return _SPILL if labels == other else self[other]
        self[labels] = at
        return at

    def observe(self, labels: tuple[str, ...], value: int) -> None:
        """Add an observation to a histogram, as a stored integer."""
        cells, at, bounds = self._table.cells, self[labels], self._family.bounds
        cells[at + bisect_left(bounds, value)] += 1
        cells[at + len(bounds) + 1] += value


_SPILL: Final = _CELLS - max(family.cells for family in FAMILIES)
"""Integers at the end that no series uses: for series whose names are so long that not even `other` fits."""


class CounterMemory:
    """The memory with all slots, as the supervisor creates it and another process reads it.

    :param fd: from `create`, possibly inherited. The caller keeps ownership.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._maps: dict[int, mmap.mmap] = {}

    @classmethod
    def create(cls) -> CounterMemory:
        """Create it in anonymous memory.

        :raises OSError: if there is no memory or file descriptor left.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("keyfront-counters", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, BANKS * BANK * _SLOT_BYTES)
        return cls(fd)

    def read(self, now: float) -> list[list[Series]]:
        """The series of each slot that was ever used; its gauges only if a worker has measured them lately.

        :param now: seconds of `time.monotonic()`.
        """
        found = []
        for slot in range(BANKS * BANK):
            if slot not in self._maps:
                start = os.pread(self.fd, 8, slot * _SLOT_BYTES)
                if int.from_bytes(start, sys.byteorder) != _FINGERPRINT:
                    continue
                self._maps[slot] = mmap.mmap(self.fd, _SLOT_BYTES, offset=slot * _SLOT_BYTES)
            found.append(_read(self._maps[slot], now))
        return found

    def close(self) -> None:
        """Release the memory and the file descriptor."""
        for each in self._maps.values():
            each.close()
        os.close(self.fd)


def _read(memory: mmap.mmap, now: float) -> list[Series]:
    with memoryview(memory)[:_NAMES_AT].cast("q") as integers:
        used = integers[_USED]
        names = _names(memory, integers)
        cells = integers[_HEADER : _HEADER + used].tolist()
        fresh = now - integers[_MEASURED] / 1e9 <= FRESH
    found, at = [], 0
    for family, labels, _ in _parsed(names, used):
        values = tuple(cells[at : at + family.cells])
        at += family.cells
        if family.kind is not Kind.GAUGE or (fresh and values[0] != ABSENT):
            found.append((family.name, labels, values))
    return found


def _names(memory: mmap.mmap, header: memoryview) -> bytes:
    return bytes(memory[_NAMES_AT : _NAMES_AT + header[_NAME_BYTES]])


def _parsed(names: bytes, used: int) -> Iterator[tuple[Family, tuple[str, ...], int]]:
    """The series that the names describe, as far as their integers are in use, each with where its name ends."""
    end = 0
    for line in names.splitlines(keepends=True):
        name, labels = _name_decoder.decode(line)
        family = BY_NAME[name]
        used -= family.cells
        if used < 0:
            return
        end += len(line)
        yield family, labels, end


_name_decoder = msgspec.json.Decoder(tuple[str, tuple[str, ...]])
