"""Buffers for request bodies that are read in full before the request goes to the origin, and a limit on their memory.
Pure.

Without this, a small upload at one byte per second would hold a connection to the origin for as long as it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import msgspec

SMALL: Final = 4096
"""Pieces of a body are joined to the preceding one up to this size, in bytes."""


class UploadLimits(msgspec.Struct, frozen=True):
    """Limits in bytes. A request body of at most `buffer` bytes is read in full before the request goes to the origin,
    so that a slow viewer holds no connection to it. `memory` is the total that all of a worker's buffered bodies may
    take at a time. A body that does not fit is streamed to the origin."""

    buffer: int = 64 * 1024
    memory: int = 32 * 1024 * 1024


class Memory:
    """A memory budget of `size` bytes."""

    __slots__ = ("_size", "used")

    def __init__(self, size: int) -> None:
        self._size = size
        self.used = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes. Returns False, and reserves nothing, if fewer are left."""
        if self.used + size > self._size:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        self.used -= size


class Gathered:
    """A request body: first the part that was buffered, then the rest as it arrives. `whole` says that the body was
    read in full. `release` returns the memory and may be called more than once."""

    __slots__ = ("_chunks", "_memory", "_rest", "_taken", "whole")

    def __init__(self, source: AsyncIterator[bytes], memory: Memory) -> None:
        self._rest = source
        self._memory = memory
        self._taken = 0
        self._chunks: deque[bytes] = deque()
        self.whole = False

    async def gather(self, most: int) -> bool:
        """Read until the body is complete, or longer than `most` bytes, or no memory is left. Returns whether there
        was enough memory. Exceptions raised by the source propagate."""
        while self._taken <= most:
            try:
                chunk = await anext(self._rest)
            except StopAsyncIteration:
                self.whole = True
                return True
            if self._chunks and len(self._chunks[-1]) + len(chunk) <= SMALL:
                # A viewer that sends byte by byte must not cost one object per byte.
                self._chunks[-1] += chunk
            else:
                self._chunks.append(chunk)
            if not self._memory.take(len(chunk)):
                return False
            self._taken += len(chunk)
        return True

    def release(self) -> None:
        self._memory.give(self._taken)
        self._taken = 0

    def __aiter__(self) -> Gathered:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks:
            return self._chunks.popleft()
        if self.whole:
            raise StopAsyncIteration
        return await anext(self._rest)
