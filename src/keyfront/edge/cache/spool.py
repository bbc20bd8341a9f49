"""The spool for a body that is too large to hold in memory, and the sizes that bodies are cut into."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from keyfront.edge.cache.sink import Sink
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Piece
from keyfront.edge.types.stored import Meta, Slices

OPEN: Final = 64
"""Number of slices that a fill keeps open for its readers, and that a reader keeps open for itself when they cannot be
fetched again."""


class Spool:
    """Cuts a body that begins at byte `start` (a slice boundary) into slices and stores each in a tier.

    `lost` says that part of the body could not be stored, `lasting` that all of it is on disk.
    """

    def __init__(self, tiers: Tiers, slices: Slices, meta: Meta, start: int) -> None:
        self._tiers = tiers
        self._slices = slices
        self.size = slices.size
        self.lasting = True
        self._meta = meta
        self._position = start
        self._sink: Sink | None = None  # of the slice in progress; None also if that is already stored
        self._sinks: dict[int, Sink] = {}  # of slices not yet stored
        self._stored: set[int] = set()
        self._open: dict[int, FileRange] = {}  # stored slices held open: readable even if evicted
        self.lost = False

    def feed(self, chunk: bytes) -> bool:
        """Add the next bytes of the body. Returns whether they completed a slice."""
        size = self._slices.size
        ended = False
        while chunk:
            index, filled = divmod(self._position, size)
            if not filled:
                self._begin(index)
            part = chunk if len(chunk) <= size - filled else chunk[: size - filled]
            chunk = chunk[len(part) :]
            self._position += len(part)
            if self._sink is not None:
                self._sink.feed(part)
            if filled + len(part) == size:
                self._end()
                ended = True
        return ended

    def _begin(self, index: int) -> None:
        found = self._tiers.slice(self._slices, index)
        if found is not None:
            self._stored.add(index)
            if isinstance(found, FileRange):
                self._hold(index, found)
            self.lasting = self.lasting and not isinstance(found, bytes)
        else:
            self._sink = self._sinks[index] = self._tiers.sink(self._slices, index, self._meta)
            self.lasting = self.lasting and self._sink.lasting

    def _end(self) -> None:
        if self._sink is not None:
            self._sink.finish()
            self._sink = None

    def finish(self) -> None:
        """End the body: it is complete, and whatever remains is its last slice."""
        self._end()

    def abandon(self) -> None:
        """Stop before the body is complete. An incomplete slice is not stored."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None

    @property
    def backlog(self) -> int:
        """Bytes waiting to be written."""
        return sum([sink.backlog for sink in self._sinks.values()])

    async def progress(self) -> None:
        """Wait until part of the backlog is written."""
        for sink in self._sinks.values():
            if sink.backlog:
                await sink.progress()
                return

    async def settled(self, within: float | None = None) -> None:
        """Wait until every completed slice is stored or has failed, for at most `within` seconds if given."""
        waits = [sink for sink in self._sinks.values() if not sink.done and not sink.failed]
        if waits:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settle(waits), within)

    async def _settle(self, sinks: list[Sink]) -> None:
        for sink in sinks:
            while not sink.done and not sink.failed:
                await sink.progress()

    def gives_back(self, first: int, end: int) -> bool:
        """Whether `piece` can return the bytes from `first` up to, but not including, `end`. All of them must have
        been fed already."""
        size = self._slices.size
        for index in range(first // size, (end - 1) // size + 1):
            if index in self._stored:
                continue
            sink = self._sinks.get(index)
            if sink is None:
                return False
            if sink.done:
                self._stored.add(index)
                if sink.file is not None:
                    self._hold(index, FileRange(sink.file, sink.offset, sink.written))
                del self._sinks[index]
                continue
            if sink.failed:
                self.lost = True
            if index * size + sink.written < min(end, (index + 1) * size):
                return False
        return True

    def _hold(self, index: int, file: FileRange) -> None:
        self._open[index] = file
        if len(self._open) > OPEN:
            del self._open[next(iter(self._open))]

    def holds(self, first: int, end: int) -> bool:
        """Hold open the stored part of the bytes from `first` up to, but not including, `end`, for one more reader.
        All of them must have been fed already. Returns False if some of them are missing or if they span too many
        slices."""
        size = self._slices.size
        held: dict[int, FileRange] = {}
        for index in range(first // size, (end - 1) // size + 1):
            sink = self._sinks.get(index)
            if sink is not None:
                if sink.file is None or index * size + sink.written < min(end, (index + 1) * size):
                    return False
                continue
            found = self._open.get(index) or self._tiers.slice(self._slices, index)
            if found is None or len(held) >= OPEN:
                return False
            if isinstance(found, FileRange):
                held[index] = found
        self._open = dict(sorted((self._open | held).items()))
        return True

    def passed(self, position: int) -> None:
        """Release what lies before `position`: all readers have it."""
        while self._open:
            index = next(iter(self._open))
            if (index + 1) * self._slices.size > position:
                return
            del self._open[index]

    def piece(self, position: int) -> Piece | None:
        """The bytes at `position`, as many as fit in one piece. None if they are gone."""
        index, skipped = divmod(position, self._slices.size)
        held = self._open.get(index)
        if held is not None:
            return held.cut(skipped, held.length - skipped)
        sink = self._sinks.get(index)
        if sink is not None and sink.file is not None and sink.written > skipped:
            return FileRange(sink.file, sink.offset + skipped, sink.written - skipped)
        found = self._tiers.slice(self._slices, index)
        return None if found is None else cut(found, skipped, self._slices.size)


def cut(piece: Piece, first: int, length: int) -> Piece:
    """At most `length` bytes of a piece, starting at byte `first` of it."""
    if not first and len(piece) <= length:
        return piece
    return piece[first : first + length] if isinstance(piece, bytes) else piece.cut(first, length)
