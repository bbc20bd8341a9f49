"""A request body on its way to the origin, with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyfront.edge.http.connection import Connection

SMALL = 4096
"""Bytes up to which a piece of a body is joined to the one before it."""

BODY_WINDOW = 256 * 1024


class Body:
    """A request's body as it arrives. Reading from the viewer pauses when the origin is slower. A viewer that waits
    for 100 Continue gets it when somebody wants the body, not before: a refusal comes in its place."""

    __slots__ = ("_broken", "_chunks", "_connection", "_news", "awaited", "ended", "size", "total", "wire")

    def __init__(self, connection: Connection, *, awaited: bool) -> None:
        self._connection = connection
        self.awaited = awaited
        self._chunks: deque[bytes] = deque()
        self._news: asyncio.Future[None] | None = None
        self._broken = False
        self.ended = False
        self.size = 0  # bytes that wait to be read
        self.total = 0  # bytes that have come
        self.wire = 0  # bytes that came after the packet of the head, with all that they were wrapped in

    def feed(self, chunk: bytes) -> None:
        if self._chunks and len(self._chunks[-1]) + len(chunk) <= SMALL:
            # A viewer that sends byte by byte must not cost an object for each.
            self._chunks[-1] += chunk
        else:
            self._chunks.append(chunk)
        self.size += len(chunk)
        self.total += len(chunk)
        if self.size > BODY_WINDOW:
            self._connection.hold("body")
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self) -> None:
        self._broken = True
        self._wake()

    def discard(self) -> None:
        """Nobody will read what is left: it must not hold up the requests after it."""
        self._chunks.clear()
        if self.size > BODY_WINDOW:
            self._connection.release("body")
        self.size = 0

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._chunks:
                chunk = self._chunks.popleft()
                self.size -= len(chunk)
                if self.size <= BODY_WINDOW:
                    self._connection.release("body")
                return chunk
            if self._broken:
                raise ConnectionResetError("the viewer broke off its request")
            if self.ended:
                raise StopAsyncIteration
            if self.awaited:
                self.awaited = False
                self._connection.go_on()
            self._news = asyncio.get_running_loop().create_future()
            await self._news
