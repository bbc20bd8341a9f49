"""Bodies too large to be held whole: what of them to ask an origin for, what its answers prove, and how a viewer reads
them from what is stored and from what is under way.

Such a body is cut into slices of one size. Every slice is asked for, stored and evicted by itself, so a seek into a
cold object of many gigabytes costs a few slices, and a viewer who leaves takes away nothing that was stored. That
slices of two versions are never mixed rests on three things: a slice's key holds its `generation`, which belongs to
one version; a slice is asked for with If-Range, and its answer must have the same strong validator and the same length
in all (RFC 9110 §13.1.5, §15.3.7; RFC 9111 §3.4); and where there is no strong validator, slices come from one single
answer or not at all.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from enum import Enum
from typing import Final, NamedTuple

from keyfront.edge.cache import Flight, LostError, Sink, Tiers
from keyfront.edge.exchange import FileRange, Headers, Meta, OriginReply, Piece, Request, Slices
from keyfront.edge.freshness import parse_date
from keyfront.edge.respond import Part
from keyfront.errors import OriginFailure, spent

FIRST_RUN: Final = 2
LONGEST_RUN: Final = 32
"""How many slices are asked for at once: few at first, for who seeks does not stay; each time twice as many for who
reads on."""
NEAR: Final = 2
"""How many slices a fill may be behind what a viewer wants for the viewer to wait for it."""
OPEN: Final = 64
"""How many slices a fill holds open for its readers, and a reader for himself where they cannot be asked for again."""
FARTHEST: Final = 1 << 50
"""No body reaches this byte: an origin is not asked for it in slices, and what is said to be longer is not stored."""
LOOKED_AT: Final = 256
"""How many slices of a body are looked for before an answer from them begins."""


class ChangedError(Exception):
    """The origin has another version now, or none: what is stored in slices is worth nothing any more."""


class UnusableError(Exception):
    """The origin's answer to a range cannot be stored in slices: each viewer asks for himself."""


# -- what to ask for, and what the answer proves: pure -------------------------------------------------------


class Span(NamedTuple):
    """Bytes `first` to `last` of a body; `total` is its length, where that is known."""

    first: int
    last: int
    total: int = 0


# Possessive, so that no value is read more than once.
_RANGE: Final = re.compile(rb"\s*+bytes\s*+=[\s,]*+([0-9]{0,40}+)-([0-9]{0,40}+)[\s,0-9-]*+", re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def wanted(request: Request, size: int) -> Span | None:
    """The slices of `size` bytes that the first of a request's ranges begins with, None if it has no range.

    A range that counts from the end (`-500`) asks for the first slice, to learn where the end is.

    :raises UnusableError: if it begins where no body reaches.
    """
    lines = [value for name, value in request.headers if name == b"range"]
    if request.method != "GET" or len(lines) != 1:
        return None
    found = _RANGE.fullmatch(lines[0])
    if found is None:
        return None
    low, high = found.groups()
    if not low:
        return Span(0, size - 1) if high else None
    if int(low) >= FARTHEST:
        raise UnusableError("a range that no body reaches")
    if high and int(high) < int(low):
        return None
    index = int(low) // size
    count = min(int(high) // size - index + 1, LONGEST_RUN) if high else FIRST_RUN
    return Span(index * size, (index + count) * size - 1)


def content_range(answer: OriginReply) -> Span | None:
    """What a 206 holds; None if it is no 206, or it does not say, or what it says cannot be."""
    lines = [value for name, value in answer.headers if name == b"content-range"]
    found = _CONTENT_RANGE.fullmatch(lines[0].strip()) if answer.status == 206 and len(lines) == 1 else None
    if found is None:
        return None
    span = Span(*map(int, found.groups()))
    if span.total > FARTHEST:
        return None
    if not span.first <= span.last < span.total or answer.length not in (None, span.last - span.first + 1):
        return None
    return span


def as_whole(answer: OriginReply, part: Span) -> OriginReply:
    """A 206 as the 200 in whose place it came (RFC 9110 §15.3.7). Its body is as it is."""
    headers: Headers = [h for h in answer.headers if h[0] not in (b"content-range", b"content-length")]
    headers.append((b"content-length", b"%d" % part.total))
    return OriginReply(
        200,
        "OK",
        headers,
        answer.body,
        length=part.last - part.first + 1,
        sized=answer.sized,
        connect_time=answer.connect_time,
        whole=answer.whole,
    )


def strong_validator(meta: Meta) -> bytes | None:
    """What two answers must have in common to be of one version, byte for byte (RFC 9110 §8.8.1, §8.8.2.2): a strong
    entity tag, or without any a Last-Modified at least a second before the answer was made."""
    if meta.coding not in (b"", b"identity"):
        return None
    if meta.etag is not None:
        return None if meta.etag.startswith(b"W/") else meta.etag
    if meta.last_modified is None:
        return None
    modified = parse_date(meta.last_modified, meta.date)
    return meta.last_modified if modified is not None and meta.date - modified >= 1 else None


class Answer(Enum):
    """What an origin's answer to a request for missing slices is."""

    GOOD = "good"
    CHANGED = "changed"
    """There is another version, or none, or the origin does no ranges any more."""
    UNUSABLE = "unusable"
    """It says nothing about what is stored: an error, as a rule."""


def judge(slices: Slices, asked: Span, answer: OriginReply, *, if_range: bool) -> Answer:
    """May this answer's body be stored among these slices?

    :param asked: the bytes that were asked for, from the beginning of a slice on. The answer may hold fewer, but not
    others.
    :param if_range: the request carried If-Range. Then an answer that tells no validator is a promise, too.
    """
    if answer.status in (200, 404, 410, 412, 416):
        return Answer.CHANGED
    if answer.status != 206:
        return Answer.UNUSABLE
    span = content_range(answer)
    if span is None or span.first != asked.first or span.last > asked.last:
        return Answer.UNUSABLE
    if span.total != slices.total:
        return Answer.CHANGED
    validator = slices.validator
    name = b"etag" if validator is not None and validator.startswith(b'"') else b"last-modified"
    told = [value for header, value in answer.headers if header == name]
    if told:
        return Answer.GOOD if told == [validator] else Answer.CHANGED
    return Answer.GOOD if if_range and validator is not None else Answer.CHANGED


def to_ask(slices: Slices, position: int, last: int, count: int, taken: Callable[[int], bool]) -> Span:
    """The run of at most `count` slices to ask for, from the one that holds `position` on, for a viewer who wants to
    read up to `last`; it ends before the next slice that is `taken`."""
    size = slices.size
    first = position // size
    end = first + 1
    while end <= last // size and end - first < count and not taken(end):
        end += 1
    total = slices.total if slices.total is not None else end * size
    return Span(first * size, min(end * size, total) - 1, total)


# -- storing -------------------------------------------------------------------------------------------------


class Spool:
    """Cuts a body that comes from byte number `start` on (where a slice begins) and puts each slice into a tier.

    `lost` says that some of it could not be stored, `lasting` that all of it is on disk.
    """

    def __init__(self, tiers: Tiers, slices: Slices, meta: Meta, start: int) -> None:
        self._tiers = tiers
        self._slices = slices
        self.size = slices.size
        self.lasting = True
        self._meta = meta
        self._position = start
        self._sink: Sink | None = None  # of the slice that is under way; None too if that is stored already
        self._sinks: dict[int, Sink] = {}  # of slices that are not stored yet
        self._stored: set[int] = set()
        self._open: dict[int, FileRange] = {}  # of these, what can be read even if it is evicted
        self.lost = False

    def feed(self, chunk: bytes) -> bool:
        """Take more of the body. True if a slice has become whole with it."""
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
        """The body is whole. What is left of it is its last slice."""
        self._end()

    def abandon(self) -> None:
        """No more comes. A slice that is not whole is not stored."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return sum([sink.backlog for sink in self._sinks.values()])

    async def progress(self) -> None:
        """Wait until some of the backlog is written."""
        for sink in self._sinks.values():
            if sink.backlog:
                await sink.progress()
                return

    async def settled(self, within: float | None = None) -> None:
        """Wait until every slice that ended is stored, or will never be; at most `within` seconds, if that is told."""
        waits = [sink for sink in self._sinks.values() if not sink.done and not sink.failed]
        if waits:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settle(waits), within)

    async def _settle(self, sinks: list[Sink]) -> None:
        for sink in sinks:
            while not sink.done and not sink.failed:
                await sink.progress()

    def gives_back(self, first: int, end: int) -> bool:
        """Can the bytes from `first` to before `end`, all of which came, be had from `piece`?"""
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
        """Hold open what is stored of the bytes from `first` to before `end`, all of which came, for one more reader.
        False if not all of it is there, or there is too much of it."""
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
        """All readers have what is before."""
        while self._open:
            index = next(iter(self._open))
            if (index + 1) * self._slices.size > position:
                return
            del self._open[index]

    def piece(self, position: int) -> Piece | None:
        """What comes at `position`, as much as can be had in one piece. None if it is gone."""
        index, skipped = divmod(position, self._slices.size)
        held = self._open.get(index)
        if held is not None:
            return held.cut(skipped, held.length - skipped)
        sink = self._sinks.get(index)
        if sink is not None and sink.file is not None and sink.written > skipped:
            return FileRange(sink.file, sink.offset + skipped, sink.written - skipped)
        found = self._tiers.slice(self._slices, index)
        return None if found is None else cut(found, skipped, self._slices.size)


# -- reading -------------------------------------------------------------------------------------------------


class Runs:
    """The fills of slices that are under way, by generation."""

    def __init__(self) -> None:
        self._flights: dict[str, list[Flight]] = {}

    def add(self, slices: Slices, flight: Flight) -> None:
        self._flights.setdefault(slices.generation, []).append(flight)

    def remove(self, slices: Slices, flight: Flight) -> None:
        flights = self._flights.get(slices.generation, [])
        if flight in flights:
            flights.remove(flight)
        if not flights:
            self._flights.pop(slices.generation, None)

    def covering(self, slices: Slices, position: int, reach: int | None) -> Flight | None:
        """A fill that has brought the byte at `position`, or will, and then is at most `reach` bytes behind it, if that
        matters."""
        for flight in self._flights.get(slices.generation, ()):
            if flight.start <= position < flight.position:
                return flight
            begun = flight.start <= position and (flight.stop is None or position < flight.stop)
            if begun and not flight.ended and (reach is None or position - flight.position <= reach):
                return flight
        return None


class Reader:
    """One viewer's way through a sliced body.

    :param ask: starts a fill of a run of slices.
    """

    def __init__(self, tiers: Tiers, runs: Runs, slices: Slices, ask: Callable[[Span], Flight]) -> None:
        self._tiers = tiers
        self._runs = runs
        self._slices = slices
        self._ask = ask
        self._run = FIRST_RUN
        self._again = 1  # how often a fill may fail without having brought a slice

    def has(self, position: int) -> bool:
        """Is the byte at `position` stored or under way, so that it need not be asked for?"""
        slices = self._slices
        if self._tiers.has(slices, position // slices.size):
            return True
        return self._runs.covering(slices, position, self._reach) is not None

    def complete(self, parts: Iterable[Part]) -> bool:
        """Can all of this be read, as far as can be seen? Looks at `LOOKED_AT` slices at most, since how many there
        are is for the origin to say: at each of them if there are no more, else at some from the first to the last."""
        if self._refetches:
            return True
        size = self._slices.size
        spans = [(p[0] // size, p[1] // size) for p in parts if not isinstance(p, bytes)]
        few = sum(last - first + 1 for first, last in spans) <= LOOKED_AT
        most = LOOKED_AT if few else max(1, LOOKED_AT // len(spans))
        return all(self.has(index * size) for first, last in spans for index in _some(first, last, most))

    async def body(self, parts: Iterable[Part]) -> AsyncGenerator[Piece, None]:
        """What `respond.layout` has laid out."""
        for part in parts:
            if isinstance(part, bytes):
                yield part
            else:
                async with aclosing(self.read(*part)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def read(self, first: int, last: int) -> AsyncGenerator[Piece, None]:
        """The bytes from `first` to `last`.

        :raises OriginFailure: if the origin does not send what is missing.
        :raises ChangedError: if it has another version now. What was read is still of the old one.
        :raises UnusableError: if it answers with something else.
        """
        slices, size = self._slices, self._slices.size
        position = first
        flight: Flight | None = None
        token: object = None
        asked_at = position
        held = {} if self._refetches else await self._hold(first, last)
        try:
            while position <= last:
                if flight is None and not self._refetches:
                    # What cannot be asked for again is read from its fill while there is one: without readers it ends.
                    flight = self._runs.covering(slices, position, None)
                    if flight is not None:
                        token = flight.join(position)
                        asked_at = position
                if flight is None:
                    index, skipped = divmod(position, size)
                    found = held.get(index) or await self._tiers.prove(slices, index)
                    if found is not None:
                        piece = cut(found, skipped, last - position + 1)
                        position += len(piece)
                        yield piece
                        continue
                    flight = self._flight(position, last)
                    token = flight.join(position)
                    asked_at = position
                next_piece = await self._next(flight, token, position, asked_at)
                if next_piece is None:
                    flight.leave(token)
                    flight = None
                    continue
                piece = cut(next_piece, 0, last - position + 1)
                position += len(piece)
                yield piece
        finally:
            if flight is not None:
                flight.leave(token)

    async def _hold(self, first: int, last: int) -> dict[int, Piece]:
        """The slices there that can be held open, so that they can be read whatever becomes of them on disk."""
        size = self._slices.size
        held: dict[int, Piece] = {}
        for index in range(first // size, min(last // size, first // size + OPEN - 1) + 1):
            found = await self._tiers.prove(self._slices, index)
            if isinstance(found, FileRange):
                held[index] = found
        return held

    async def _next(self, flight: Flight, token: object, position: int, asked_at: int) -> Piece | None:
        """What the fill brings at `position`, None if it brings no more and another one is to be asked for."""
        failure: Exception | None = None
        try:
            await flight.outcome
            piece = await flight.next(token, position)
        except (LostError, OriginFailure) as error:
            spent(error)
            piece, failure = None, error
        except ConnectionAbortedError:  # everybody else had left it
            piece, failure = None, LostError()
        if failure is not None and not self._refetches:
            raise failure
        if piece is None and position - asked_at < (self._slices.size if failure is not None else 1):
            # A fill that breaks off before it has brought a slice is not asked for again and again.
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

    def _flight(self, position: int, last: int) -> Flight:
        """The fill to wait for: one under way that will soon be there, or a new one."""
        slices = self._slices
        flight = self._runs.covering(slices, position, self._reach)
        if flight is not None:
            return flight
        if not self._refetches:
            raise LostError
        span = to_ask(slices, position, last, self._run, self._taken)
        self._run = min(2 * self._run, LONGEST_RUN)
        return self._ask(span)

    def _taken(self, index: int) -> bool:
        if self._tiers.has(self._slices, index):
            return True
        return (
            self._runs.covering(self._slices, index * self._slices.size, NEAR * self._slices.size) is not None
        )


def _some(first: int, last: int, most: int) -> Iterable[int]:
    """The numbers from `first` to `last`, or, if these are more than `most`, so many of them, evenly spread."""
    count = last - first + 1
    if count <= most:
        return range(first, last + 1)
    return [first + (count - 1) * number // max(1, most - 1) for number in range(most)]


def cut(piece: Piece, first: int, length: int) -> Piece:
    """At most `length` bytes of a piece, from its byte number `first`."""
    if not first and len(piece) <= length:
        return piece
    return piece[first : first + length] if isinstance(piece, bytes) else piece.cut(first, length)


class Opened:
    """A body of pieces, some of which may have been had already; closed begun or not."""

    __slots__ = ("_begun", "_close", "_pieces")

    def __init__(self, pieces: AsyncGenerator[Piece, None], close: Callable[[], None] | None = None) -> None:
        self._pieces = pieces
        self._close = close
        self._begun: list[Piece] = []

    @classmethod
    async def begin(cls, pieces: AsyncGenerator[Piece, None], count: int) -> Opened:
        """With the first `count` pieces had; raises what they raise."""
        opened = cls(pieces)
        for _ in range(count):
            opened._begun.append(await anext(pieces))
        opened._begun.reverse()
        return opened

    def __aiter__(self) -> Opened:
        return self

    async def __anext__(self) -> Piece:
        return self._begun.pop() if self._begun else await anext(self._pieces)

    async def aclose(self) -> None:
        self._begun.clear()
        await self._pieces.aclose()
        if self._close is not None:
            self._close()


async def sequence(pieces: AsyncIterator[Piece], parts: Iterable[Part]) -> AsyncGenerator[Piece, None]:
    """What `respond.layout` has laid out, from a body that comes in order and is read only once.

    :raises OriginFailure: if the body ends before that.
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
