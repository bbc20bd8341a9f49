"""A sink that stores a slice in memory, where no disk can take it."""

from __future__ import annotations

from time import monotonic_ns

from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.shared_arena import Arena
from keyfront.edge.types.stored import Meta, Stored


class MemorySink:
    """Collects the slice and stores it once it is complete. `lasting` is False: the slice may be evicted at any
    time."""

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
        stored.requested_ns = stored.stored_ns = monotonic_ns()
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
