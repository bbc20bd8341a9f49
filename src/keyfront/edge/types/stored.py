"""A stored response."""

from __future__ import annotations

from typing import Final

from keyfront.edge.types.messages import Header


class Meta:
    """All that is known of a stored response except its body; made by `freshness.admit`, never changed.

    `headers` are end-to-end headers as the viewer may see them, without Age, Via, X-Cache and the like; `date` is the
    response's Date as epoch seconds. A response is fresh until `fresh_until`; it may be served stale while being
    revalidated until `swr_until`, and on an origin's error until `sie_until` (infinity where CloudFront serves
    stale without being asked to). `initial_age` seconds had passed when it was stored at `stored_at`.
    `vary` names the request headers (as forwarded, lower-case) whose values are `vary_values`.
    `revalidate_always` marks a response that is stored but must be revalidated at each use; `conditional` says whether
    conditional requests may be made from `etag` and `last_modified`. These are the origin's own; `coding` is
    the edge's coding of the body since (`encoding`: empty, `identity`, `gzip`, `br`).
    `snapshot` is the number of the snapshot that was active when the origin was asked: invalidations in later
    snapshots end the response, in whichever tier it is (`Routing.is_invalidated`). 0 precedes all snapshots. `tags` are
    the origin's cache tags, in lower case (`invalidation.cache_tags`).
    """

    __slots__ = (
        "coding",
        "conditional",
        "date",
        "etag",
        "fresh_until",
        "headers",
        "initial_age",
        "last_modified",
        "length",
        "reason",
        "revalidate_always",
        "sie_until",
        "snapshot",
        "status",
        "stored_at",
        "swr_until",
        "tags",
        "vary",
        "vary_values",
    )

    def __init__(  # wide: the fields of a value
        self,
        status: int,
        headers: tuple[Header, ...],
        *,
        stored_at: float,
        fresh_until: float,
        date: float,
        initial_age: float = 0.0,
        length: int | None = None,
        etag: bytes | None = None,
        last_modified: bytes | None = None,
        swr_until: float = 0.0,
        sie_until: float = 0.0,
        revalidate_always: bool = False,
        conditional: bool = False,
        vary: tuple[bytes, ...] = (),
        vary_values: tuple[bytes, ...] = (),
        reason: str = "",
        coding: bytes = b"",
        snapshot: int = 0,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.status = status
        self.headers = headers
        self.stored_at = stored_at
        self.fresh_until = fresh_until
        self.date = date
        self.initial_age = initial_age
        self.length = length
        self.etag = etag
        self.last_modified = last_modified
        self.swr_until = swr_until
        self.sie_until = sie_until
        self.revalidate_always = revalidate_always
        self.conditional = conditional
        self.vary = vary
        self.vary_values = vary_values
        self.reason = reason
        self.coding = coding
        self.snapshot = snapshot
        self.tags = tags


ROUNDING: Final = 0.001
"""Seconds that every age is longer, so that the rounding of a difference of two times cannot take a second from it."""


def born(meta: Meta) -> float:
    """When the origin made the response, in epoch seconds, as Age counts it (RFC 9111 §4.2.3)."""
    return meta.stored_at - meta.initial_age - ROUNDING


class Slices:
    """How a body too large to be held whole is stored: cut into pieces of `size` bytes, the last one shorter, each
    stored for itself or not.

    `total` is the body's length, None while a body of unknown length still comes. `generation` tells this body's slices
    from those of any other that was or will be stored under `key`. `validator` is what the origin's answers are held
    to when a missing slice is asked for: a strong entity tag, or a Last-Modified that counts as strong (RFC 9110
    §8.8.2.2); with None, or if the origin does not do ranges (`ranged`), slices that are lost stay lost.
    """

    __slots__ = ("generation", "key", "ranged", "size", "total", "validator")

    def __init__(
        self, key: str, total: int | None, size: int, generation: str, validator: bytes | None, ranged: bool
    ) -> None:
        self.key = key
        self.total = total
        self.size = size
        self.generation = generation
        self.validator = validator
        self.ranged = ranged

    def length(self, index: int) -> int:
        """Bytes of one slice."""
        return self.size if self.total is None else min(self.size, self.total - index * self.size)


class Stored:
    """A response in the cache: its `meta` and its whole `body`, or, if that is too large, how it is sliced.

    `head` is the start of its bytes on an HTTP/1.1 connection, filled in by the shell that first serves it, and
    `policed` the last one that a response headers policy made of it, with that policy and the request fields it used;
    `used` is set at every hit and cleared when eviction passes by; `size` is what it is charged, in bytes. Until
    `fast_path_until` (epoch seconds) it may be served unchanged to any unconditional request for its key; 0 if it
    varies or is not a 200. The origin was asked for it at `asked`, and it was stored at `written`: nanoseconds of the
    machine's monotonic clock, by which all workers order what they store and remove (`removals`).
    """

    __slots__ = (
        "asked",
        "body",
        "born",
        "fast_path_until",
        "head",
        "key",
        "meta",
        "policed",
        "size",
        "slices",
        "used",
        "written",
    )

    def __init__(self, key: str, meta: Meta, body: bytes, slices: Slices | None = None) -> None:
        self.key = key
        self.meta = meta
        self.body = body
        self.slices = slices
        self.asked = self.written = 0
        self.head: bytes = b""
        self.policed: tuple[object, bytes, bytes] | None = None
        self.born = born(meta)
        self.fast_path_until = meta.fresh_until if meta.status == 200 and not meta.vary else 0.0
        self.used = False
        # The key stands in several tables, and the headers once more in `head`.
        self.size = (
            len(body)
            + 2 * len(key)
            + sum([2 * (len(name) + len(value)) + 170 for name, value in meta.headers])
            + sum([len(value) + 100 for value in meta.vary_values])
            + sum([len(tag) + 60 for tag in meta.tags])
            + 1000
        )

    @property
    def length(self) -> int | None:
        """Bytes of the whole body; None while one of unknown length still comes."""
        return len(self.body) if self.slices is None else self.slices.total

    def renewed(self, meta: Meta) -> Stored:
        """The same body under another meta."""
        return Stored(self.key, meta, self.body, self.slices)
