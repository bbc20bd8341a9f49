"""Request bodies that are gathered before the origin is asked, and how much memory they may take. Pure.

A small upload at a byte a second would otherwise hold a connection to the origin for as long as it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import msgspec

SMALL: Final = 4096
"""Bytes up to which a piece of a body is joined to the one before it."""


class UploadLimits(msgspec.Struct, frozen=True):
    """Bytes. A request body of at most `buffer` is read whole before the origin is asked, so that a slow viewer holds
    no connection to it; `memory` is what all of a worker's bodies together may take meanwhile. A body that does not
    fit goes to the origin as it comes."""

    buffer: int = 64 * 1024
    memory: int = 32 * 1024 * 1024


class Memory:
    """Bytes that are taken, of so many."""

    __slots__ = ("_size", "used")

    def __init__(self, size: int) -> None:
        self._size = size
        self.used = 0

    def take(self, size: int) -> bool:
        """Take so many bytes, if there are as many."""
        if self.used + size > self._size:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        self.used -= size


class Gathered:
    """A request body, as much of it as was gathered, and then the rest as it comes. `whole` says that nothing more
    comes. `release` gives the memory back; it may be called again."""

    __slots__ = ("_chunks", "_memory", "_rest", "_taken", "whole")

    def __init__(self, source: AsyncIterator[bytes], memory: Memory) -> None:
        self._rest = source
        self._memory = memory
        self._taken = 0
        self._chunks: deque[bytes] = deque()
        self.whole = False

    async def gather(self, most: int) -> bool:
        """Read until the body is whole, or longer than `most` bytes, or there is no memory left. Returns whether there
        was enough memory. What the source raises is raised."""
        while self._taken <= most:
            try:
                chunk = await anext(self._rest)
            except StopAsyncIteration:
                self.whole = True
                return True
            if self._chunks and len(self._chunks[-1]) + len(chunk) <= SMALL:
                # A viewer that sends byte by byte must not cost an object for each.
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
