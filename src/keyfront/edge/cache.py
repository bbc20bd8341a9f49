"""What a worker has stored, and the fills that are under way.

`MemoryTier` keeps whole responses, bounded in bytes; eviction passes over what was used since it last came by (a
second chance, as in CLOCK), so that a hit costs one attribute write and no reordering. A primary key has one
response, or several if it varies. The tier on disk (`disk`) has the same words, `find`, `put`, `drop`. `Tiers` is
memory, what the machine's workers share (`arena`), and disk together. A response too large to be held whole is stored
as its `Slices` and, each for itself, the slices that are there; in memory only while there is no disk for them.

A `Flight` is one fill: a single request to an origin, whoever else asks for the same key meanwhile. It runs in a
task of its own, so that a viewer who leaves spoils nothing for the others. Viewers read its body as it grows; what is
gone from memory meanwhile they read back from where its `Spool` has put it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Protocol

from keyfront.edge.arena import Arena
from keyfront.edge.disk import DiskTier
from keyfront.edge.exchange import Headers, Meta, OpenFile, Piece, Slices, Stored
from keyfront.edge.freshness import variant_values
from keyfront.edge.removals import Removal, Removals
from keyfront.edge.segment import Segment

if TYPE_CHECKING:
    from keyfront.edge.slices import Spool

Ended = Callable[[str, int, tuple[str, ...]], bool]
"""Whether invalidations have ended what is stored under a key, was asked for under a snapshot's number, and carries
these cache tags."""

MAX_VARIANTS = 64
WINDOW = 256 * 1024
"""Bytes that a fill which is stored nowhere may run ahead of its slowest reader."""
AHEAD = 64 * 1024 * 1024
"""Bytes that a fill which is stored on disk may run ahead of its fastest reader: who watches slowly, or stops in the
middle of 5 GB, shall not make the origin send it all."""
HELD = 2
"""Slices that a fill which is stored in memory may run ahead of its fastest reader, and that it holds for the slower
ones itself: from the memory tier they may be gone by then."""
LAG = 2 * 1024 * 1024
"""Bytes of one fill that may wait to be written to disk."""
SMALL = 4096
"""Bytes up to which a piece of a body is joined to the one before it."""
SETTLE = 1.0
"""Seconds for which the end of a body is held back until the disk has all of it."""


class MemoryTier:
    """Whole responses by key, at most `capacity` bytes of them, each body at most `max_object` bytes.

    :param removals: what all workers have removed. Before each look, one comparison tells whether there is news of
        them; then it is removed here, and `heard` is called with it (None: it may be anything).
    """

    def __init__(
        self,
        capacity: int,
        max_object: int,
        removals: Removals | None = None,
        heard: Callable[[list[Removal] | None], None] | None = None,
    ) -> None:
        self.removals = Removals(Segment.private()) if removals is None else removals
        self._change = self.removals.change
        self._seen = self.removals.seen
        self._heard = heard
        self.capacity = capacity
        self.max_object = min(max_object, capacity)
        self.bytes = 0
        self.evictions = 0
        self._entries: dict[str, Stored] = {}
        self._variants: dict[str, list[Stored]] = {}
        self._ended: Ended | None = None
        self._unswept: list[str] = []
        self._families: dict[str, set[str]] = {}  # by path: the keys that hold more than a path

    def __len__(self) -> int:
        return len(self._entries) + sum(len(v) - 1 for v in self._variants.values())

    def look(self, key: str) -> Stored | None:
        """A response for `key`, whatever it varies on: for who asks `find` then."""
        if self._change[0] != self._seen:
            self.catch_up()
        if self._ended is not None:
            self._bury(key)
        stored = self._entries.get(key)
        if stored is not None:
            stored.used = True
        return stored

    def find(self, key: str, forwarded: Callable[[], Headers]) -> Stored | None:
        """The response for `key`. `forwarded` gives the request's headers as they would go to the origin; it is
        asked only where the stored response varies."""
        if self._change[0] != self._seen:
            self.catch_up()
        if self._ended is not None:
            self._bury(key)
        stored = self._entries.get(key)
        if stored is None:
            return None
        if stored.meta.vary:
            # All variants of a key vary on the same names (`put`).
            values = variant_values(stored.meta.vary, forwarded())
            for variant in self._variants[key]:
                if variant.meta.vary_values == values:
                    variant.used = True
                    return variant
            return None
        stored.used = True
        return stored

    def put(self, stored: Stored, key: str | None = None) -> None:
        """Keep a response, in the place of the one that it supersedes. `key` is its own if no other is told."""
        key = stored.key if key is None else key
        if self._ended is not None:
            self._bury(key)
        variants = self._variants.get(key)
        if not stored.meta.vary or (variants is not None and variants[0].meta.vary != stored.meta.vary):
            self.drop(key)
            variants = None
        if stored.meta.vary:
            if variants is None:
                variants = self._variants[key] = []
            for old in variants:
                if old.meta.vary_values == stored.meta.vary_values:
                    variants.remove(old)
                    self.bytes -= old.size
                    break
            if len(variants) >= MAX_VARIANTS:
                self.bytes -= variants.pop(0).size
            variants.append(stored)
        if self._entries.pop(key, None) is None and "\n" in key:
            self._families.setdefault(key.partition("\n")[0], set()).add(key)
        self._entries[key] = stored
        self.bytes += stored.size
        self._evict()

    def drop(self, key: str) -> None:
        """Forget the response for `key`, all its variants included."""
        stored = self._entries.pop(key, None)
        if stored is None:
            return
        variants = self._variants.pop(key, None)
        self.bytes -= sum(v.size for v in variants) if variants else stored.size
        if "\n" in key:
            path = key.partition("\n")[0]
            family = self._families[path]
            family.discard(key)
            if not family:
                del self._families[path]

    def hear(self) -> None:
        """Catch up if there is news."""
        if self._change[0] != self._seen:
            self.catch_up()

    def catch_up(self) -> None:
        """Remove what other workers have removed."""
        news = self.removals.news()
        self._seen = self.removals.seen
        if news is None:
            self.clear()
        else:
            for removal in news:
                self.remove(removal)
        if self._heard is not None:
            self._heard(news)

    def remove(self, removal: Removal) -> None:
        if removal.exact:
            self.drop(removal.key)
            self.drop(removal.key + _SLICED)
        else:
            self.drop_all(removal.key + removal.query)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._variants.clear()
        self._families.clear()
        self.bytes = 0

    def drop_all(self, key: str) -> None:
        """Forget the responses for `key`, a path or a path and a query string, whatever else is in their keys."""
        self.drop(key)
        path, _, query = key.partition("\n")
        for each in list(self._families.get(path, ())):
            if each.startswith(key + "\n") and (query or not each.startswith(key + "\nq")):
                self.drop(each)

    def forget(self, key: str, meta: Meta) -> None:
        """Forget the response for `key` that one with this meta would supersede."""
        variants = self._variants.get(key)
        if variants is None or variants[0].meta.vary != meta.vary:
            self.drop(key)
            return
        others = [old for old in variants if old.meta.vary_values != meta.vary_values]
        if not others:
            self.drop(key)
        elif len(others) < len(variants):
            self.bytes -= sum(old.size for old in variants) - sum(old.size for old in others)
            self._variants[key] = others
            self._entries[key] = others[-1]

    def sweep(self, ended: Ended) -> None:
        """Forget what `ended` names. From now on nothing of it is found; the memory
        that it takes is freed by `swept`. What is put from now on must not be ended."""
        self._ended = ended
        self._unswept = list(self._entries)

    @property
    def sweeping(self) -> bool:
        return self._ended is not None

    def swept(self, count: int) -> bool:
        """Go through `count` more of the keys that a sweep has left; True if none is left."""
        for key in self._unswept[-count:]:
            self._bury(key)
        del self._unswept[-count:]
        if not self._unswept:
            self._ended = None
        return self._ended is None

    def _bury(self, key: str) -> None:
        """Forget what is ended of the responses for `key`."""
        stored, ended = self._entries.get(key), self._ended
        if stored is None or ended is None:
            return
        variants = self._variants.get(key)
        if variants is None:
            if ended(key, stored.meta.snapshot, stored.meta.tags):
                self.drop(key)
            return
        alive = [variant for variant in variants if not ended(key, variant.meta.snapshot, variant.meta.tags)]
        if not alive:
            self.drop(key)
        elif len(alive) < len(variants):
            self.bytes -= sum(variant.size for variant in variants) - sum(variant.size for variant in alive)
            self._variants[key] = alive
            self._entries[key] = alive[-1]

    def _evict(self) -> None:
        while self.bytes > self.capacity:
            key = next(iter(self._entries))
            stored = self._entries[key]
            if stored.used:
                stored.used = False
                del self._entries[key]
                self._entries[key] = stored
            else:
                self.drop(key)
                self.evictions += 1


_SLICED = "\ns"
"""What a key ends in under which the memory tier keeps a sliced response: `look` must find only what is at hand."""


class Tiers:
    """Memory, what the workers of the machine share if there are several, and the disk if there is one."""

    def __init__(self, memory: MemoryTier, disk: DiskTier | None, arena: Arena | None = None) -> None:
        self.memory = memory
        self.disk = disk
        self.arena = arena

    def find(self, key: str, forwarded: Callable[[], Headers], now: float) -> Stored | None:
        """The response for `key`. What is found elsewhere is put into memory; so is what another worker has fetched or
        renewed since, once that in memory is no longer fresh at `now` (epoch seconds)."""
        memory = self.memory
        stored = memory.find(key, forwarded) or memory.find(key + _SLICED, forwarded)
        if stored is not None and now < stored.meta.fresh_until:
            return stored
        if self.arena is not None:
            shared = self.arena.find(key, forwarded, stored.written if stored is not None else 0)
            if shared is not None:
                self._remember(shared)
                return shared
        if stored is None and self.disk is not None:
            asked = monotonic_ns()
            stored = self.disk.find(key, forwarded)
            if stored is not None:
                stored.asked = asked
                self._share(stored)
        return stored

    def _remember(self, stored: Stored) -> None:
        if stored.slices is not None:
            self.memory.forget(stored.key, stored.meta)
            self.memory.put(stored, stored.key + _SLICED)
        elif len(stored.body) <= self.memory.max_object:
            self.memory.forget(stored.key + _SLICED, stored.meta)
            self.memory.put(stored)

    def _share(self, stored: Stored) -> None:
        stored.written = monotonic_ns()
        self._remember(stored)
        if self.arena is not None:
            self.arena.put(stored)

    def put(self, stored: Stored, asked: float, *, share: bool = True) -> None:
        """Keep a response, in the place of the one that it supersedes. The origin was asked for it at `asked` (epoch
        seconds). When this returns, all workers find it, unless `share` is false: then it is in memory only."""
        if not share:
            self._remember(stored)
            return
        self._share(stored)
        if self.disk is not None:
            self.disk.put(stored, asked)

    def drop(self, key: str) -> None:
        """Forget the response for `key`, all its variants included, in all workers."""
        removal = Removal(key, exact=True)
        self.memory.remove(removal)
        if self.disk is not None:
            self.disk.drop(key)
        self.memory.removals.publish(removal)

    def slice(self, slices: Slices, index: int) -> Piece | None:
        """A slice that is at hand."""
        name = slices.name(index)
        body = self._in_memory(name)
        if body is not None or self.disk is None:
            return body
        return self.disk.slice(name, slices.length(index))

    async def prove(self, slices: Slices, index: int) -> Piece | None:
        """The same; what lies on disk since before the machine started is read through first."""
        name = slices.name(index)
        body = self._in_memory(name)
        if body is not None or self.disk is None:
            return body
        return await self.disk.prove(name, slices.length(index))

    def _in_memory(self, name: str) -> bytes | None:
        """A slice in this worker's memory, or in what the workers share: then it is put into memory."""
        stored = self.memory.look(name)
        if stored is None and self.arena is not None:
            stored = self.arena.exact(name)
            if stored is not None and stored.size <= self.memory.capacity // 4:
                self.memory.put(stored)
        return stored.body if stored is not None else None

    def has(self, slices: Slices, index: int) -> bool:
        """Is the slice there, as far as can be seen without opening it?"""
        name = slices.name(index)
        return (
            self.memory.look(name) is not None
            or (self.arena is not None and self.arena.has(name))
            or (self.disk is not None and self.disk.has(name))
        )

    def sink(self, slices: Slices, index: int, meta: Meta) -> Sink:
        """What takes a slice as it comes: the disk, or memory if there is none that can."""
        name = slices.name(index)
        length = slices.length(index) if slices.total is not None else None
        writer = self.disk.writer(name, length) if self.disk is not None else None
        return writer or MemorySink(self.memory, name, meta, self.arena)


class Sink(Protocol):
    """A slice on its way into a tier. `written` bytes of it can be read back, from `file` at `offset`, before it is
    `done` or has `failed`; `backlog` bytes wait for the disk."""

    offset: int
    lasting: bool
    """What is done stays for a while, whatever else comes."""

    @property
    def file(self) -> OpenFile | None: ...
    @property
    def written(self) -> int: ...
    @property
    def backlog(self) -> int: ...
    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    def feed(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...
    async def progress(self) -> None: ...


class MemorySink:
    """A slice on its way into memory."""

    lasting = False

    def __init__(self, memory: MemoryTier, name: str, meta: Meta, arena: Arena | None = None) -> None:
        self._memory = memory
        self._arena = arena
        self._name = name
        self._meta = meta
        self._chunks: list[bytes] = []
        self.file = None
        self.offset = 0
        self.written = 0
        self.backlog = 0
        self.done = False
        self.failed = False

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> None:
        body = b"".join(self._chunks)
        self._chunks.clear()
        stored = Stored(self._name, self._meta, body)
        stored.asked = stored.written = monotonic_ns()
        if self._arena is not None:
            self._arena.put_exact(stored)
        if stored.size <= self._memory.capacity // 4:
            self._memory.put(stored)
            self.done = True
        else:
            self.failed = True

    def abandon(self) -> None:
        self._chunks.clear()
        self.failed = True

    async def progress(self) -> None:
        return


class LostError(Exception):
    """What a reader is to read next is neither in memory any more nor stored."""


class Flight:
    """One fill under way: an answer of an origin, whose body is that of the object from byte number `start` on.

    `outcome` resolves when the origin's head is in: to the Meta that viewers get (whether it will be stored or
    not), or to an exception. `shared` says whether requests other than the first may be served from it; `stored`
    is what to serve them from if it is not the flight's body as it comes (revalidated, stale because the origin
    failed, or sliced); `result` the word for X-Cache. The filler calls `announce`, `feed`, `finish` or `fail`; a
    viewer calls `join` before it waits for the outcome, then iterates `read`, or asks for what comes `next`.

    The body is kept in memory up to a limit. What is larger is either stored in slices by a `spool`, then memory holds
    what the spool cannot give back yet; or it is stored nowhere, and then it waits for its slowest reader.
    """

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Meta] = asyncio.get_running_loop().create_future()
        self.shared = False
        self.result = "Miss"
        self.status = 0  # the origin's
        self.snapshot = 0  # the number of the one that was obeyed when the origin was asked
        self.sheltered = False  # a parent has answered from its cache
        self.keeps = False  # is what it brings stored, as far as is known?
        self.everything = False  # the origin was asked for a range and answered with the whole body
        self.first_headers: Headers = []  # for the viewer who began it, where they differ from what is stored
        self.stored: Stored | None = None
        self.length: int | None = None
        self.start = 0
        self.position = 0  # of the object, up to which its bytes are in
        self.stop: int | None = None  # where the body ends, if that is known
        self.spool: Spool | None = None
        self.before_end: Callable[[], None] | None = None  # called when all that is sliced has been stored
        self._keep = 0
        self._chunks: list[bytes] = []  # what is in memory
        self._ends: list[int] = []  # where each of them ends
        self._dropped = 0  # where the first of them begins
        self._whole: bytes | None = None
        self._done = False
        self._error: BaseException | None = None
        self._readers: dict[object, int] = {}
        self._news: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def launch(self, run: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(run)

    # -- the filler's side ---------------------------------------------------------------------------------------

    def announce(self, meta: Meta, *, keep: int, shared: bool, length: int | None) -> None:
        """The head is in. Up to `keep` bytes of body will be kept; `shared`: others may be served from it too."""
        self.shared = shared
        self.length = length
        self._keep = keep
        if not self.outcome.done():
            self.outcome.set_result(meta)

    def begin(self, start: int, stop: int | None) -> None:
        """The body goes from there to before `stop`."""
        self.start = self.position = self._dropped = start
        self.stop = stop

    def store(self, spool: Spool) -> None:
        """From here on the body is stored by `spool`, and that with all that has come already."""
        self.spool = spool
        self._keep = 0
        for chunk in self._chunks:
            spool.feed(chunk)

    async def feed(self, chunk: bytes) -> None:
        """Append to the body. Waits where it runs too far ahead.

        :raises ConnectionAbortedError: if it is too large to be kept and nobody reads it any more; what is stored in
        slices goes on to the end of one.
        """
        spool = self.spool
        if spool is not None and self.stop is not None and self.position + len(chunk) >= self.stop:
            await self._feed_last(spool, chunk)
            return
        self._append(chunk)
        if spool is None:
            self._wake()
            if self.position - self.start > self._keep:
                self.shared = False
                await self._wait_for_slowest()
            return
        ended = spool.feed(chunk)
        self._wake()
        if ended and not self._readers:
            raise ConnectionAbortedError("nobody reads this any more")
        while True:
            slowest = min(self._readers.values(), default=self.position)
            self._drop(slowest)
            spool.passed(slowest)
            if spool.backlog > LAG:
                await spool.progress()
            elif self._readers and (
                (spool.lost and self.position - self._dropped > WINDOW)
                or self.position - max(self._readers.values())
                > (AHEAD if spool.lasting else HELD * spool.size)
            ):
                await self._reader_moved()
            else:
                return

    async def _feed_last(self, spool: Spool, chunk: bytes) -> None:
        """Append the end of the body, once all that is stored of it is there for whoever asks next, whichever worker
        that is: a viewer who has the last byte may tell others of it."""
        spool.feed(chunk)
        spool.finish()
        await spool.settled(SETTLE)
        if self.before_end is not None:
            self.before_end()
        self._append(chunk)
        self._wake()

    def _append(self, chunk: bytes) -> None:
        self.position += len(chunk)
        if self._chunks and len(self._chunks[-1]) + len(chunk) <= SMALL:
            # An origin that sends byte by byte must not cost an object for each.
            self._chunks[-1] += chunk
            self._ends[-1] = self.position
        else:
            self._chunks.append(chunk)
            self._ends.append(self.position)

    async def _wait_for_slowest(self) -> None:
        while True:
            if not self._readers:
                raise ConnectionAbortedError("nobody reads this any more")
            slowest = min(self._readers.values())
            self._drop(slowest)
            if self.position - slowest <= WINDOW:
                return
            await self._reader_moved()

    def _drop(self, passed: int) -> None:
        """Let go of chunks that the spool can give back, or, where they are stored nowhere, that all have read."""
        spool, ends = self.spool, self._ends
        number = 0
        for end in ends:
            if spool is None or not spool.gives_back(self._dropped, end):
                kept = end > passed or not (spool is None or spool.lost)
            else:
                kept = not spool.lasting and end > max(passed, self.position - HELD * spool.size)
            if kept:
                break
            self._dropped = end
            number += 1
        if number:
            del ends[:number]
            del self._chunks[:number]

    async def _reader_moved(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    def finish(self) -> None:
        self._done = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done = True
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # a flight that nobody waits for is no warning
        self._wake()

    @property
    def ended(self) -> bool:
        """Does nothing more come?"""
        return self._done

    @property
    def whole(self) -> bytes | None:
        """The complete body, if it is complete and was kept."""
        if not self._done or self._error is not None or self.spool is not None or self._dropped:
            return None
        if self._whole is None:
            self._whole = b"".join(self._chunks)
        return self._whole

    def _wake(self) -> None:
        for news in self._news:
            if not news.done():
                news.set_result(None)
        self._news.clear()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- a viewer's side -----------------------------------------------------------------------------------------

    def open_to_all(self) -> bool:
        """Can one more reader have all of the body, whatever is evicted from now on? Asked right before `join`; where
        the body is stored already (`stored`) it need not be read from here."""
        if self._dropped == self.start or self.stored is not None:
            return True
        return self.spool is not None and self.spool.holds(self.start, self._dropped)

    def join(self, position: int = 0) -> object:
        """Count one more reader; give the token to `read`, `next` or `leave`."""
        token = object()
        self._readers[token] = position
        return token

    def leave(self, token: object) -> None:
        self._readers.pop(token, None)
        self._make_room()

    async def next(self, token: object, position: int) -> Piece | None:
        """What of the body comes at `position`, as much as is at hand; None at its end. The reader has what is before.

        :raises LostError: if that is gone.
        :raises BaseException: what the fill failed with, once all that came before is read.
        """
        self._readers[token] = position
        self._make_room()
        while position >= self.position:
            if self._error is not None:
                raise self._error
            if self._done:
                return None
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._news.append(news)
            await news
        if position >= self._dropped:
            number = bisect_right(self._ends, position)
            chunk = self._chunks[number]
            skipped = position - self._ends[number] + len(chunk)
            return chunk[skipped:] if skipped else chunk
        piece = self.spool.piece(position) if self.spool is not None else None
        if piece is None:
            raise LostError
        return piece

    def read(self, token: object) -> Reading:
        """The body as it grows; raises what the fill failed with."""
        return Reading(self, token)


class Reading:
    """A viewer's way through a flight's body. Closed at its end, or by `aclose`, begun or not."""

    __slots__ = ("_flight", "_position", "_token")

    def __init__(self, flight: Flight, token: object) -> None:
        self._flight = flight
        self._token = token
        self._position = flight.start

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> Piece:
        try:
            piece = await self._flight.next(self._token, self._position)
        except BaseException:
            self._flight.leave(self._token)
            raise
        if piece is None:
            self._flight.leave(self._token)
            raise StopAsyncIteration
        self._position += len(piece)
        return piece

    async def aclose(self) -> None:
        self._flight.leave(self._token)
