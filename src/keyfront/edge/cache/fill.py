"""Fills in progress and their readers: collapsed requests share the response to a single origin request."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from keyfront.edge.cache.memory import SETTLE, SMALL
from keyfront.edge.cache.removals import Removal
from keyfront.edge.rules.cache_key import path_of
from keyfront.edge.types.messages import Headers, LostError, Piece
from keyfront.edge.types.stored import Meta, Stored

if TYPE_CHECKING:
    from keyfront.edge.cache.spool import Spool

WINDOW = 256 * 1024
"""How far, in bytes, an unstored fill may run ahead of its slowest reader."""


MAX_FILL_LEAD = 64 * 1024 * 1024
"""How far, in bytes, a fill stored on disk may run ahead of its fastest reader: a viewer that watches slowly, or stops
in the middle of 5 GB, must not make the origin send it all."""


HELD = 2
"""How far, in slices, a fill stored in memory may run ahead of its fastest reader. The fill itself holds as many for
its slower readers, because the memory tier may have evicted them by then."""


LAG = 2 * 1024 * 1024
"""Maximum backlog of one fill waiting to be written to disk, in bytes."""


class Fill:
    """One fill in progress: an origin's answer, whose body is that of the object from byte `start` on.

    `outcome` resolves when the origin's response head has arrived: to the Meta that viewers get (whether or not it
    will be stored), or to an exception. `shared` says whether requests other than the first may be served from it.
    `stored` is what to serve them from if not from the fill's body as it arrives (revalidated, stale because the
    origin failed, or sliced). `result` is the value for X-Cache. The filler calls `announce`, `feed`, and `finish` or
    `fail`. A viewer calls `join` before it waits for the outcome, then iterates `read` or calls `next`.

    The body is held in memory up to a limit. A larger body is either stored in slices by a `spool`, in which case
    memory holds only what the spool cannot return yet, or it is not stored and waits for its slowest reader.
    """

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Meta] = asyncio.get_running_loop().create_future()
        self.shared = False
        self.result = "Miss"
        self.status = 0  # the origin's
        self.snapshot = 0  # number of the snapshot in force when the request went to the origin
        self.from_shield = False  # a parent answered from its cache
        self.will_store = False  # whether the answer will be stored, as far as is known
        self.full_body = False  # the origin was sent a range request and answered with the whole body
        self.first_headers: Headers = []  # for the viewer that started it, where they differ from what is stored
        self.stored: Stored | None = None
        self.length: int | None = None
        self.start = 0
        self.position = 0  # offset in the object up to which its bytes have arrived
        self.stop: int | None = None  # where the body ends, if known
        self.spool: Spool | None = None
        self.before_end: Callable[[], None] | None = None  # called when all slices have been stored
        self._keep = 0
        self._chunks: list[bytes] = []  # the chunks in memory
        self._ends: list[int] = []  # where each of them ends
        self._dropped = 0  # where the first of them begins
        self._whole: bytes | None = None
        self._done = False
        self._error: BaseException | None = None
        self._readers: dict[object, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def launch(self, run: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(run)

    # -- the filler's side ---------------------------------------------------------------------------------------

    def announce(self, meta: Meta, *, keep: int, shared: bool, length: int | None) -> None:
        """Announce the response head. Up to `keep` bytes of the body will be held in memory. With `shared`, other
        requests may be served from it too."""
        self.shared = shared
        self.length = length
        self._keep = keep
        if not self.outcome.done():
            self.outcome.set_result(meta)

    def begin(self, start: int, stop: int | None) -> None:
        """Set the range of the body: from `start` up to, but not including, `stop`."""
        self.start = self.position = self._dropped = start
        self.stop = stop

    def store(self, spool: Spool) -> None:
        """Store the body through `spool` from now on, including everything that has already arrived."""
        self.spool = spool
        self._keep = 0
        for chunk in self._chunks:
            spool.feed(chunk)

    async def feed(self, chunk: bytes) -> None:
        """Append to the body. Waits if the fill runs too far ahead of its readers.

        :raises ConnectionAbortedError: if the body is too large to be held and no reader is left. A fill that is
            stored in slices first completes the current slice.
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
            raise ConnectionAbortedError("no viewer reads this any more")
        while True:
            slowest = min(self._readers.values(), default=self.position)
            self._drop(slowest)
            spool.passed(slowest)
            if spool.backlog > LAG:
                await spool.progress()
            elif self._readers and (
                (spool.lost and self.position - self._dropped > WINDOW)
                or self.position - max(self._readers.values())
                > (MAX_FILL_LEAD if spool.lasting else HELD * spool.size)
            ):
                await self._reader_moved()
            else:
                return

    async def _feed_last(self, spool: Spool, chunk: bytes) -> None:
        """Append the end of the body, once all of it that is being stored is available to the next request in any
        worker: a viewer that has the last byte may tell others about it."""
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
            # An origin that sends byte by byte must not cost one object per byte.
            self._chunks[-1] += chunk
            self._ends[-1] = self.position
        else:
            self._chunks.append(chunk)
            self._ends.append(self.position)

    async def _wait_for_slowest(self) -> None:
        while True:
            if not self._readers:
                raise ConnectionAbortedError("no viewer reads this any more")
            slowest = min(self._readers.values())
            self._drop(slowest)
            if self.position - slowest <= WINDOW:
                return
            await self._reader_moved()

    def _drop(self, passed: int) -> None:
        """Release the chunks that the spool can return or, if they are stored nowhere, that all readers have read."""
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
            self.outcome.exception()  # suppresses asyncio's warning when nothing waits for the fill
        self._wake()

    @property
    def ended(self) -> bool:
        """Whether the fill has ended."""
        return self._done

    @property
    def whole(self) -> bytes | None:
        """The complete body, if all of it arrived and was held in memory."""
        if not self._done or self._error is not None or self.spool is not None or self._dropped:
            return None
        if self._whole is None:
            self._whole = b"".join(self._chunks)
        return self._whole

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- a viewer's side -----------------------------------------------------------------------------------------

    def accepts_readers(self) -> bool:
        """Whether one more reader can get the whole body, whatever is evicted from now on. Call it right before
        `join`. If the body is already stored (`stored`), it need not be read from here."""
        if self._dropped == self.start or self.stored is not None:
            return True
        return self.spool is not None and self.spool.holds(self.start, self._dropped)

    def join(self, position: int = 0) -> object:
        """Add a reader. Pass the returned token to `read`, `next`, or `leave`."""
        token = object()
        self._readers[token] = position
        return token

    def leave(self, token: object) -> None:
        self._readers.pop(token, None)
        self._make_room()

    async def next(self, token: object, position: int) -> Piece | None:
        """The bytes of the body at `position`, as many as are available; None at its end. Everything before `position`
        counts as read.

        :raises LostError: if these bytes are gone.
        :raises BaseException: the error that the fill failed with, once everything that arrived before it has been
            read.
        """
        self._readers[token] = position
        self._make_room()
        while position >= self.position:
            if self._error is not None:
                raise self._error
            if self._done:
                return None
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if position >= self._dropped:
            number = bisect_right(self._ends, position)
            chunk = self._chunks[number]
            skipped = position - self._ends[number] + len(chunk)
            return chunk[skipped:] if skipped else chunk
        piece = self.spool.piece(position) if self.spool is not None else None
        if piece is None:
            raise LostError
        return piece

    def read(self, token: object) -> FillReader:
        """An iterator over the body as it arrives; raises the error that the fill failed with."""
        return FillReader(self, token)


class FillReader:
    """Reads a fill's body for one viewer. It is closed at the end of the body or by `aclose`, even if iteration never
    began."""

    __slots__ = ("_fill", "_position", "_token")

    def __init__(self, fill: Fill, token: object) -> None:
        self._fill = fill
        self._token = token
        self._position = fill.start

    def __aiter__(self) -> FillReader:
        return self

    async def __anext__(self) -> Piece:
        try:
            piece = await self._fill.next(self._token, self._position)
        except BaseException:
            self._fill.leave(self._token)
            raise
        if piece is None:
            self._fill.leave(self._token)
            raise StopAsyncIteration
        self._position += len(piece)
        return piece

    async def aclose(self) -> None:
        self._fill.leave(self._token)


class FillsInProgress:
    """The fills that further requests for the same cache key may join."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[str, Fill] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Fill]:
        return iter(self._by_key.values())

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def get(self, key: str) -> Fill | None:
        return self._by_key.get(key)

    def add(self, key: str, fill: Fill) -> None:
        """Let requests for `key` join a fill, unless there is already one to join."""
        self._by_key.setdefault(key, fill)

    def remove(self, key: str, fill: Fill) -> None:
        """Let no further request join this fill. Its current readers continue."""
        if self._by_key.get(key) is fill:
            del self._by_key[key]

    def remove_where(self, is_purged: Callable[[str], bool]) -> None:
        """Like `remove`, for all fills whose keys are purged: their answers may be older than the purge."""
        for key in [key for key in self._by_key if is_purged(key)]:
            del self._by_key[key]

    def remove_path(self, path: str) -> None:
        """Like `remove`, for all fills of one path, as returned by `path_of`."""
        self.remove_where(lambda key: path_of(key) == path)

    def on_removals(self, removals: list[Removal] | None) -> None:
        """Like `remove`, for what other workers have removed; None means that anything may have been removed."""
        if removals is None:
            self._by_key.clear()
            return
        for removal in removals:
            if not removal.exact:
                self.remove_path(removal.key)
