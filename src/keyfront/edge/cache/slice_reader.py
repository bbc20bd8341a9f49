"""Reading a body that is stored in slices, from the tiers and from fills in progress.

A body too large to be held whole is cut into slices of one size. Each slice is fetched, stored, and evicted
separately, so a seek into a cold object of many gigabytes costs a few slices, and a viewer who leaves discards nothing
that was stored. Three things ensure that slices of two versions are never mixed: a slice's key contains its
`generation`, which belongs to one version; a slice is requested with If-Range, and the response must have the same
strong validator and the same total length (RFC 9110 §13.1.5, §15.3.7; RFC 9111 §3.4); and without a strong validator,
all slices come from a single response.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Final

from keyfront.edge.cache.fill import Fill
from keyfront.edge.cache.spool import OPEN, cut
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.rules.slicing import FIRST_RUN, LONGEST_RUN, Span, span_to_request
from keyfront.edge.semantics.ranges import Part
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import LostError, Piece
from keyfront.edge.types.stored import Slices
from keyfront.errors import OriginFailure, clear_traceback

NEAR: Final = 2
"""A viewer waits for a fill that is at most this many slices short of the byte that it needs."""
LOOKED_AT: Final = 256
"""Maximum number of slices that are looked up before a response made of them begins."""


class SliceFills:
    """The fills of slices in progress, by generation."""

    def __init__(self) -> None:
        self._fills: dict[str, list[Fill]] = {}

    def add(self, slices: Slices, fill: Fill) -> None:
        self._fills.setdefault(slices.generation, []).append(fill)

    def remove(self, slices: Slices, fill: Fill) -> None:
        fills = self._fills.get(slices.generation, [])
        if fill in fills:
            fills.remove(fill)
        if not fills:
            self._fills.pop(slices.generation, None)

    def covering(self, slices: Slices, position: int, reach: int | None) -> Fill | None:
        """A fill that has, or will have, the byte at `position`.

        :param reach: how many bytes the fill may still be short of `position`; None means any number.
        """
        for fill in self._fills.get(slices.generation, ()):
            if fill.start <= position < fill.position:
                return fill
            begun = fill.start <= position and (fill.stop is None or position < fill.stop)
            if begun and not fill.ended and (reach is None or position - fill.position <= reach):
                return fill
        return None


class Reader:
    """Reads a sliced body for one viewer.

    :param start_fill: starts a fill of a run of slices.
    """

    def __init__(
        self, tiers: Tiers, slice_fills: SliceFills, slices: Slices, start_fill: Callable[[Span], Fill]
    ) -> None:
        self._tiers = tiers
        self._slice_fills = slice_fills
        self._slices = slices
        self._start_fill = start_fill
        self._run = FIRST_RUN
        self._again = 1  # how often a fill may fail before it has delivered a slice

    def has(self, position: int) -> bool:
        """Whether the byte at `position` is stored or being fetched, so that it need not be requested."""
        slices = self._slices
        if self._tiers.has(slices, position // slices.size):
            return True
        return self._slice_fills.covering(slices, position, self._reach) is not None

    def complete(self, parts: Iterable[Part]) -> bool:
        """Whether all of this can apparently be read. Looks up at most `LOOKED_AT` slices, because the origin
        determines how many there are: every slice if there are no more than that, otherwise an even selection from the
        first to the last."""
        if self._refetches:
            return True
        size = self._slices.size
        spans = [(p[0] // size, p[1] // size) for p in parts if not isinstance(p, bytes)]
        few = sum(last - first + 1 for first, last in spans) <= LOOKED_AT
        most = LOOKED_AT if few else max(1, LOOKED_AT // len(spans))
        return all(self.has(index * size) for first, last in spans for index in _some(first, last, most))

    async def body(self, parts: Iterable[Part]) -> AsyncGenerator[Piece, None]:
        """The body as laid out by `respond.layout`."""
        for part in parts:
            if isinstance(part, bytes):
                yield part
            else:
                async with aclosing(self.read(*part)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def read(self, first: int, last: int) -> AsyncGenerator[Piece, None]:
        """The bytes from `first` to `last`, inclusive.

        :raises OriginFailure: if the origin does not send what is missing.
        :raises ChangedError: if the origin has a different version now. Everything read so far is from the old one.
        :raises UnusableError: if the origin's answer cannot be used for slices.
        """
        slices, size = self._slices, self._slices.size
        position = first
        fill: Fill | None = None
        token: object = None
        read_from = position
        held = {} if self._refetches else await self._hold(first, last)
        try:
            while position <= last:
                if fill is None and not self._refetches:
                    # What cannot be fetched again is read from its fill while there is one: a fill without readers
                    # ends.
                    fill = self._slice_fills.covering(slices, position, None)
                    if fill is not None:
                        token = fill.join(position)
                        read_from = position
                if fill is None:
                    index, skipped = divmod(position, size)
                    found = held.get(index) or await self._tiers.verified_slice(slices, index)
                    if found is not None:
                        piece = cut(found, skipped, last - position + 1)
                        position += len(piece)
                        yield piece
                        continue
                    fill = self._join_or_start(position, last)
                    token = fill.join(position)
                    read_from = position
                next_piece = await self._next(fill, token, position, read_from)
                if next_piece is None:
                    fill.leave(token)
                    fill = None
                    continue
                piece = cut(next_piece, 0, last - position + 1)
                position += len(piece)
                yield piece
        finally:
            if fill is not None:
                fill.leave(token)

    async def _hold(self, first: int, last: int) -> dict[int, Piece]:
        """The available slices that can be held open, so that they stay readable even after removal from disk."""
        size = self._slices.size
        held: dict[int, Piece] = {}
        for index in range(first // size, min(last // size, first // size + OPEN - 1) + 1):
            found = await self._tiers.verified_slice(self._slices, index)
            if isinstance(found, FileRange):
                held[index] = found
        return held

    async def _next(self, fill: Fill, token: object, position: int, read_from: int) -> Piece | None:
        """The fill's bytes at `position`, or None if it has no more and another fill must be started."""
        failure: Exception | None = None
        try:
            await fill.outcome
            piece = await fill.next(token, position)
        except (LostError, OriginFailure) as error:
            clear_traceback(error)
            piece, failure = None, error
        except ConnectionAbortedError:  # every other reader had left it
            piece, failure = None, LostError()
        if failure is not None and not self._refetches:
            raise failure
        if piece is None and position - read_from < (self._slices.size if failure is not None else 1):
            # A fill that breaks off before it has delivered a slice is not repeated endlessly.
            self._again -= 1
            if self._again < 0:
                raise failure or LostError
        return piece

    @property
    def _refetches(self) -> bool:
        return self._slices.validator is not None and self._slices.ranged

    @property
    def _reach(self) -> int | None:
        return NEAR * self._slices.size if self._refetches else None

    def _join_or_start(self, position: int, last: int) -> Fill:
        """The fill to wait for: one in progress that will soon reach `position`, or a new one."""
        slices = self._slices
        fill = self._slice_fills.covering(slices, position, self._reach)
        if fill is not None:
            return fill
        if not self._refetches:
            raise LostError
        span = span_to_request(slices, position, last, self._run, self._taken)
        self._run = min(2 * self._run, LONGEST_RUN)
        return self._start_fill(span)

    def _taken(self, index: int) -> bool:
        if self._tiers.has(self._slices, index):
            return True
        return (
            self._slice_fills.covering(self._slices, index * self._slices.size, NEAR * self._slices.size)
            is not None
        )


def _some(first: int, last: int, most: int) -> Iterable[int]:
    """The numbers from `first` to `last`, or, if there are more than `most`, that many of them, evenly spread."""
    count = last - first + 1
    if count <= most:
        return range(first, last + 1)
    return [first + (count - 1) * number // max(1, most - 1) for number in range(most)]


class PrefetchedBody:
    """A body made of pieces, some of which may have been read ahead. It can be closed whether or not iteration has
    begun."""

    __slots__ = ("_begun", "_close", "_pieces")

    def __init__(self, pieces: AsyncGenerator[Piece, None], close: Callable[[], None] | None = None) -> None:
        self._pieces = pieces
        self._close = close
        self._begun: list[Piece] = []

    @classmethod
    async def begin(cls, pieces: AsyncGenerator[Piece, None], count: int) -> PrefetchedBody:
        """A body with its first `count` pieces already read. Exceptions raised by them propagate."""
        opened = cls(pieces)
        for _ in range(count):
            opened._begun.append(await anext(pieces))
        opened._begun.reverse()
        return opened

    def __aiter__(self) -> PrefetchedBody:
        return self

    async def __anext__(self) -> Piece:
        return self._begun.pop() if self._begun else await anext(self._pieces)

    async def aclose(self) -> None:
        self._begun.clear()
        await self._pieces.aclose()
        if self._close is not None:
            self._close()


async def sequence(pieces: AsyncIterator[Piece], parts: Iterable[Part]) -> AsyncGenerator[Piece, None]:
    """The body as laid out by `respond.layout`, made from a body that arrives in order and can be read only once.

    :raises OriginFailure: if the body ends too early.
    """
    position = 0
    rest: Piece = b""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        first, last = part
        while first <= last:
            if position + len(rest) <= first:
                position += len(rest)
                try:
                    rest = await anext(pieces)
                except StopAsyncIteration:
                    raise OriginFailure("OriginCommError", 502, "a body shorter than its length") from None
                continue
            piece = cut(rest, first - position, last - first + 1)
            first += len(piece)
            yield piece
