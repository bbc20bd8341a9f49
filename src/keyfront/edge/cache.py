"""What a worker has stored in memory, and the fills that are under way.

`MemoryTier` keeps whole responses, bounded in bytes; eviction passes over what was used since it last came by (a
second chance, as in CLOCK), so that a hit costs one attribute write and no reordering. A primary key has one
response, or several if it varies. The tier answers `find`, `put`, `drop`: a tier on disk has the same three words.

A `Flight` is one fill: a single request to an origin, whoever else asks for the same key meanwhile. It runs in a
task of its own, so that a viewer who leaves spoils nothing for the others. Viewers read its body as it grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from keyfront.edge.exchange import Headers, Meta, Stored
from keyfront.edge.freshness import vary_matches

Ended = Callable[[str, int], bool]

MAX_VARIANTS = 64
WINDOW = 256 * 1024
"""Bytes that a fill too large to be kept may run ahead of its slowest reader."""


class MemoryTier:
    """Whole responses by key, at most `capacity` bytes of them, each body at most `max_object` bytes."""

    def __init__(self, capacity: int, max_object: int) -> None:
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
        if self._ended is not None:
            self._bury(key)
        stored = self._entries.get(key)
        if stored is not None:
            stored.used = True
        return stored

    def find(self, key: str, forwarded: Callable[[], Headers]) -> Stored | None:
        """The response for `key`. `forwarded` gives the request's headers as they would go to the origin; it is
        asked only where the stored response varies."""
        if self._ended is not None:
            self._bury(key)
        stored = self._entries.get(key)
        if stored is None:
            return None
        if stored.meta.vary:
            headers = forwarded()
            for variant in self._variants[key]:
                if vary_matches(variant.meta, headers):
                    variant.used = True
                    return variant
            return None
        stored.used = True
        return stored

    def put(self, stored: Stored) -> None:
        """Keep a response, in the place of the one that it supersedes."""
        key = stored.key
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

    def drop_all(self, key: str) -> None:
        """Forget the responses for `key`, a path or a path and a query string, whatever else is in their keys."""
        self.drop(key)
        path, _, query = key.partition("\n")
        for each in list(self._families.get(path, ())):
            if each.startswith(key + "\n") and (query or not each.startswith(key + "\nq")):
                self.drop(each)

    def sweep(self, ended: Ended) -> None:
        """Forget what `ended` names, a key and the number of a snapshot. From now on nothing of it is found; the memory
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
            if ended(key, stored.meta.snapshot):
                self.drop(key)
            return
        alive = [variant for variant in variants if not ended(key, variant.meta.snapshot)]
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


class Flight:
    """One fill under way.

    `outcome` resolves when the origin's head is in: to the Meta that viewers get (whether it will be stored or
    not), or to an exception. `shared` says whether requests other than the first may be served from it; `stored`
    is what to serve if no body will come (revalidated, or stale because the origin failed); `result` the word for
    X-Cache. The filler calls `announce`, `feed`, `finish` or `fail`; a viewer calls `join` before it waits for
    the outcome, then iterates `read`.
    """

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Meta] = asyncio.get_running_loop().create_future()
        self.shared = False
        self.result = "Miss"
        self.status = 0  # the origin's
        self.keeps = False  # is what it brings stored, as far as is known?
        self.first_headers: Headers = []  # for the viewer who began it, where they differ from what is stored
        self.stored: Stored | None = None
        self.length: int | None = None
        self._keep = 0
        self._chunks: list[bytes] = []  # the chunks numbered _first and up
        self._first = 0
        self._dropped = 0  # bytes in the chunks before _first
        self._size = 0
        self._whole: bytes | None = None
        self._done = False
        self._error: BaseException | None = None
        self._readers: dict[object, int] = {}
        self._news: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, run: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(run)

    # -- the filler's side ---------------------------------------------------------------------------------------

    def announce(self, meta: Meta, *, keep: int, shared: bool, length: int | None) -> None:
        """The head is in. Up to `keep` bytes of body will be kept; `shared`: others may be served from it too."""
        self.shared = shared
        self.length = length
        self._keep = keep
        if not self.outcome.done():
            self.outcome.set_result(meta)

    async def feed(self, chunk: bytes) -> None:
        """Append to the body. Waits for slow readers once the body is too large to be kept.

        :raises ConnectionAbortedError: if it is too large to be kept and nobody reads it any more.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._wake()
        if self._size <= self._keep:
            return
        self.shared = False
        while True:
            if not self._readers:
                raise ConnectionAbortedError("nobody reads this any more")
            slowest = min(self._readers.values())
            while self._chunks and self._dropped + len(self._chunks[0]) <= slowest:
                self._dropped += len(self._chunks.pop(0))
                self._first += 1
            if self._size - slowest <= WINDOW:
                return
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
    def whole(self) -> bytes | None:
        """The complete body, if it is complete and was kept."""
        if not self._done or self._error is not None or self._dropped:
            return None
        # Readers count the chunks that they have passed, so those stay as they are.
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

    def join(self) -> object:
        """Count one more reader, from the body's first byte; give the token to `read` or `leave`."""
        token = object()
        self._readers[token] = 0
        return token

    def leave(self, token: object) -> None:
        self._readers.pop(token, None)
        self._make_room()

    async def read(self, token: object) -> AsyncIterator[bytes]:
        """The body as it grows; raises what the fill failed with."""
        try:
            number = 0
            while True:
                while number - self._first < len(self._chunks):
                    # A chunk is dropped only when every reader has passed it, so this one is still there.
                    chunk = self._chunks[number - self._first]
                    number += 1
                    yield chunk
                    self._readers[token] += len(chunk)
                    self._make_room()
                if self._error is not None:
                    raise self._error
                if self._done:
                    return
                news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._news.append(news)
                await news
        finally:
            self.leave(token)
