"""A request body on its way to the origin, with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol

COALESCE: Final = 4096
"""Bytes up to which a chunk of a body is appended to the previous chunk."""
BODY_WINDOW: Final = 256 * 1024
"""Bytes of a body that may wait for the origin before the viewer is no longer read."""


class FlowControl(Protocol):
    """The methods of a connection that its request body calls."""

    def pause_reading(self, reason: str) -> None:
        """Stop reading from the viewer until `resume_reading` has been called for every reason."""

    def resume_reading(self, reason: str) -> None:
        """Withdraw a reason, whether or not it was given."""

    def send_continue(self) -> None:
        """Send 100 Continue (RFC 9110 §15.2.1)."""


class Body:
    """A request's body as it arrives, and an iterator over its chunks.

    Reading from the viewer is paused while more than `BODY_WINDOW` bytes wait for the origin. A viewer that expects 100
    Continue gets it when the body is first read, not before: until then, the response may be a refusal.

    `awaited` is true for as long as the viewer still expects 100 Continue. `total` counts the bytes that have arrived,
    `wire` those of the packets after the first one, including framing.

    :param awaited: whether the viewer expects 100 Continue.
    """

    __slots__ = ("_broken", "_chunks", "_flow", "_size", "_waiter", "awaited", "ended", "total", "wire")

    def __init__(self, flow: FlowControl, *, awaited: bool) -> None:
        self._flow = flow
        self.awaited = awaited
        self._chunks: deque[bytes] = deque()
        self._size = 0  # total bytes of the chunks
        self._waiter: asyncio.Future[None] | None = None
        self._broken = False
        self.ended = False
        self.total = 0
        self.wire = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk."""
        if self._chunks and len(self._chunks[-1]) + len(chunk) <= COALESCE:
            # A viewer that sends one byte at a time must not cost one object per byte.
            self._chunks[-1] += chunk
        else:
            self._chunks.append(chunk)
        self._size += len(chunk)
        self.total += len(chunk)
        if self._size > BODY_WINDOW:
            self._flow.pause_reading("body")
        self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.ended = True
        self._wake()

    def fail(self) -> None:
        """The rest of the body will not arrive: its consumer gets a `ConnectionResetError`."""
        self._broken = True
        self._wake()

    def discard(self) -> None:
        """Drop data that will not be read, so that it does not block the requests behind it."""
        self._chunks.clear()
        if self._size > BODY_WINDOW:
            self._flow.resume_reading("body")
        self._size = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk)
                if self._size <= BODY_WINDOW:
                    self._flow.resume_reading("body")
                return chunk
            if self._broken:
                raise ConnectionResetError("the viewer broke off its request")
            if self.ended:
                raise StopAsyncIteration
            if self.awaited:
                self.awaited = False
                self._flow.send_continue()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
