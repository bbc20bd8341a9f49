"""The tiers of the cache in the order of lookup: memory, shared memory, disk."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from keyfront.edge.cache.disk import DiskTier
from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.memory_sink import MemorySink
from keyfront.edge.cache.removals import Removal
from keyfront.edge.cache.shared_arena import Arena
from keyfront.edge.cache.sink import Sink
from keyfront.edge.rules.cache_key import slice_key, sliced_key
from keyfront.edge.types.messages import Headers, Piece
from keyfront.edge.types.stored import Meta, Slices, Stored


class Tiers:
    """This worker's memory, the memory shared by the machine's workers (if there are several), and the disk (if
    configured)."""

    def __init__(self, memory: MemoryTier, disk: DiskTier | None, arena: Arena | None = None) -> None:
        self.memory = memory
        self.disk = disk
        self.arena = arena

    def find(self, key: str, forwarded: Callable[[], Headers], now: float) -> Stored | None:
        """The response for `key`.

        A response found in another tier is copied into memory. A response in memory that is no longer fresh at `now`
        (epoch seconds) is replaced by one that another worker has fetched or revalidated since.
        """
        memory = self.memory
        stored = memory.find(key, forwarded) or memory.find(sliced_key(key), forwarded)
        if stored is not None and now < stored.meta.fresh_until:
            return stored
        if self.arena is not None:
            shared = self.arena.find(key, forwarded, stored.stored_ns if stored is not None else 0)
            if shared is not None:
                self._remember(shared)
                return shared
        if stored is None and self.disk is not None:
            requested_ns = monotonic_ns()
            stored = self.disk.find(key, forwarded)
            if stored is not None:
                stored.requested_ns = requested_ns
                self._share(stored)
        return stored

    def _remember(self, stored: Stored) -> None:
        if stored.slices is not None:
            self.memory.forget(stored.key, stored.meta)
            self.memory.put(stored, sliced_key(stored.key))
        elif len(stored.body) <= self.memory.max_object:
            self.memory.forget(sliced_key(stored.key), stored.meta)
            self.memory.put(stored)

    def _share(self, stored: Stored) -> None:
        stored.stored_ns = monotonic_ns()
        self._remember(stored)
        if self.arena is not None:
            self.arena.put(stored)

    def put(self, stored: Stored, requested_at: float, *, share: bool = True) -> None:
        """Store a response in place of the one that it supersedes. Once this returns, all workers find it.

        :param requested_at: when the request went to the origin, epoch seconds.
        :param share: if false, the response is stored in this worker's memory only.
        """
        if not share:
            self._remember(stored)
            return
        self._share(stored)
        if self.disk is not None:
            self.disk.put(stored, requested_at)

    def drop(self, key: str) -> None:
        """Remove the response for `key` with all its variants, in all workers."""
        removal = Removal(key, exact=True)
        self.memory.remove(removal)
        if self.disk is not None:
            self.disk.drop(key)
        self.memory.removals.publish(removal)

    def slice(self, slices: Slices, index: int) -> Piece | None:
        """The slice, if it can be read now."""
        name = slice_key(slices, index)
        body = self._in_memory(name)
        if body is not None or self.disk is None:
            return body
        return self.disk.slice(name, slices.length(index))

    async def verified_slice(self, slices: Slices, index: int) -> Piece | None:
        """Like `slice`, but a slice written to disk before the machine started is first read and verified."""
        name = slice_key(slices, index)
        body = self._in_memory(name)
        if body is not None or self.disk is None:
            return body
        return await self.disk.verified_slice(name, slices.length(index))

    def _in_memory(self, name: str) -> bytes | None:
        """A slice in this worker's memory, or in the shared memory, from which it is copied into this worker's."""
        stored = self.memory.get_any_variant(name)
        if stored is None and self.arena is not None:
            stored = self.arena.exact(name)
            if stored is not None and stored.size <= self.memory.capacity // 4:
                self.memory.put(stored)
        return stored.body if stored is not None else None

    def has(self, slices: Slices, index: int) -> bool:
        """Whether the slice appears to be stored. Does not open it."""
        name = slice_key(slices, index)
        return (
            self.memory.get_any_variant(name) is not None
            or (self.arena is not None and self.arena.has(name))
            or (self.disk is not None and self.disk.has(name))
        )

    def sink(self, slices: Slices, index: int, meta: Meta) -> Sink:
        """Where to write a slice as it arrives: the disk, or memory if there is no disk that can take it."""
        name = slice_key(slices, index)
        length = slices.length(index) if slices.total is not None else None
        writer = self.disk.writer(name, length) if self.disk is not None else None
        return writer or MemorySink(self.memory, name, meta, self.arena)
