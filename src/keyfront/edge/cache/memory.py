"""The memory tier: responses in one worker's own memory.

Its size is limited in bytes. Eviction skips an entry that was used since the last pass (second chance, as in CLOCK),
so a hit costs one attribute write and no reordering. A cache key has one response or several variants. The disk tier
(`disk`) has the same methods, `find`, `put`, and `drop`; `Tiers` combines memory, the memory shared by the machine's
workers (`shared_arena`), and disk. A response too large to be held whole is stored as its `Slices` plus the slices
that are present, each as an entry of its own. Those slices are in memory only if there is no disk.
"""

from __future__ import annotations

from collections.abc import Callable

from keyfront.edge.cache.removals import Removal, Removals
from keyfront.edge.cache.shared_segment import Segment
from keyfront.edge.rules.cache_key import is_under, path_of, sliced_key
from keyfront.edge.rules.vary import variant_values
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta, Stored

Ended = Callable[[str, int, tuple[str, ...]], bool]
"""Whether an invalidation has ended a response, given its key, the number of the snapshot that was active when the
request went to the origin, and its cache tags."""

MAX_VARIANTS = 64
SMALL = 4096
"""Pieces of a body are joined to the preceding one up to this size, in bytes."""
SETTLE = 1.0
"""How long, in seconds, the end of a body is held back until the disk has stored all of it."""


class MemoryTier:
    """Whole responses by key, at most `capacity` bytes in total, with bodies of at most `max_object` bytes each.

    :param removals: the removals of all workers. One comparison before each lookup detects new ones; these are then
        applied here too, and `on_removals` is called with them (None: any response may have been removed).
    """

    def __init__(
        self,
        capacity: int,
        max_object: int,
        removals: Removals | None = None,
        on_removals: Callable[[list[Removal] | None], None] | None = None,
    ) -> None:
        self.removals = Removals(Segment.private()) if removals is None else removals
        self._change = self.removals.change
        self._seen = self.removals.seen
        self._on_removals = on_removals
        self.capacity = capacity
        self.max_object = min(max_object, capacity)
        self.bytes = 0
        self.evictions = 0
        self._entries: dict[str, Stored] = {}
        self._variants: dict[str, list[Stored]] = {}
        self._ended: Ended | None = None
        self._unswept: list[str] = []
        self._families: dict[str, set[str]] = {}  # by path: the keys that extend a path

    def __len__(self) -> int:
        return len(self._entries) + sum(len(v) - 1 for v in self._variants.values())

    def get_any_variant(self, key: str) -> Stored | None:
        """A response for `key`, of any variant. If the response varies, call `find` instead."""
        if self._change[0] != self._seen:
            self.apply_removals()
        if self._ended is not None:
            self._drop_if_purged(key)
        stored = self._entries.get(key)
        if stored is not None:
            stored.used = True
        return stored

    def find(self, key: str, forwarded: Callable[[], Headers]) -> Stored | None:
        """The response for `key`. `forwarded` returns the request's headers as they would go to the origin; it is
        called only if the stored response varies."""
        if self._change[0] != self._seen:
            self.apply_removals()
        if self._ended is not None:
            self._drop_if_purged(key)
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
        """Store a response in place of the one that it supersedes, under `key` (default: its own)."""
        key = stored.key if key is None else key
        if self._ended is not None:
            self._drop_if_purged(key)
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
        if self._entries.pop(key, None) is None:
            path = path_of(key)
            if path != key:
                self._families.setdefault(path, set()).add(key)
        self._entries[key] = stored
        self.bytes += stored.size
        self._evict()

    def drop(self, key: str) -> None:
        """Remove the response for `key` with all its variants."""
        stored = self._entries.pop(key, None)
        if stored is None:
            return
        variants = self._variants.pop(key, None)
        self.bytes -= sum(v.size for v in variants) if variants else stored.size
        path = path_of(key)
        if path != key:
            family = self._families[path]
            family.discard(key)
            if not family:
                del self._families[path]

    def poll_removals(self) -> None:
        """Apply the removals of other workers, if there are any."""
        if self._change[0] != self._seen:
            self.apply_removals()

    def apply_removals(self) -> None:
        """Remove what other workers have removed since the last call."""
        removals = self.removals.poll()
        self._seen = self.removals.seen
        if removals is None:
            self.clear()
        else:
            for removal in removals:
                self.remove(removal)
        if self._on_removals is not None:
            self._on_removals(removals)

    def remove(self, removal: Removal) -> None:
        if removal.exact:
            self.drop(removal.key)
            self.drop(sliced_key(removal.key))
        else:
            self.drop_all(removal.key + removal.query)

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self._variants.clear()
        self._families.clear()
        self.bytes = 0

    def drop_all(self, key: str) -> None:
        """Remove the responses for `key`, a path or a path with a query string, whatever else their keys contain."""
        self.drop(key)
        for each in list(self._families.get(path_of(key), ())):
            if is_under(each, key):
                self.drop(each)

    def forget(self, key: str, meta: Meta) -> None:
        """Remove the response for `key` that a response with this meta would supersede."""
        variants = self._variants.get(key)
        if variants is None or variants[0].meta.vary != meta.vary:
            self.drop(key)
            return
        self._retain(key, variants, [old for old in variants if old.meta.vary_values != meta.vary_values])

    def start_sweep(self, ended: Ended) -> None:
        """Begin removing everything that `ended` reports as invalidated. From now on, lookups do not return it;
        `sweep_some` frees its memory. Nothing stored from now on may be invalidated."""
        self._ended = ended
        self._unswept = list(self._entries)

    @property
    def sweeping(self) -> bool:
        return self._ended is not None

    def sweep_some(self, count: int) -> bool:
        """Sweep `count` more keys. Returns True if none is left."""
        for key in self._unswept[-count:]:
            self._drop_if_purged(key)
        del self._unswept[-count:]
        if not self._unswept:
            self._ended = None
        return self._ended is None

    def _drop_if_purged(self, key: str) -> None:
        """Remove the variants of `key` that the current sweep covers."""
        stored, ended = self._entries.get(key), self._ended
        if stored is None or ended is None:
            return
        variants = self._variants.get(key)
        if variants is None:
            if ended(key, stored.meta.snapshot, stored.meta.tags):
                self.drop(key)
            return
        alive = [variant for variant in variants if not ended(key, variant.meta.snapshot, variant.meta.tags)]
        self._retain(key, variants, alive)

    def _retain(self, key: str, variants: list[Stored], remaining: list[Stored]) -> None:
        """Remove all variants of `key` but the remaining ones."""
        if not remaining:
            self.drop(key)
        elif len(remaining) < len(variants):
            self.bytes -= sum(variant.size for variant in variants) - sum(
                variant.size for variant in remaining
            )
            self._variants[key] = remaining
            self._entries[key] = remaining[-1]

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
