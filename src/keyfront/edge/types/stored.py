"""Stored responses: metadata, slices, and bodies."""

from __future__ import annotations

from typing import Final

from keyfront.edge.types.messages import Header


class Meta:
    """The metadata of a stored response: everything except its body. Created by `freshness.admit`, never changed.

    `headers` are end-to-end headers as the viewer may see them, without Age, Via, X-Cache and the like; `date` is the
    response's Date as epoch seconds. A response is fresh until `fresh_until`; it may be served stale during
    revalidation until `swr_until`, and after an origin error until `sie_until` (infinity where CloudFront serves stale
    without a directive). `initial_age` is its age in seconds when it was stored at `stored_at`.

    `vary` names the request headers (as forwarded, lower-case) whose values are `vary_values`. `revalidate_always`
    marks a response that is stored but must be revalidated at each use; `conditional` says whether conditional requests
    may be made from `etag` and `last_modified`. These two are the origin's own; `coding` is the edge's coding of the
    body since (`encoding`: empty, `identity`, `gzip`, `br`).

    `snapshot` is the number of the snapshot that was active when the response was requested from the origin:
    invalidations in later snapshots end the response, in whichever tier it is (`Routing.is_invalidated`). 0 precedes
    all snapshots. `tags` are the origin's cache tags, in lower case (`invalidation.cache_tags`).
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

    def __init__(  # noqa: PLR0913 - the fields of a value
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
"""Seconds added to every age, so that rounding in the difference of two times cannot reduce it by a second."""


def born(meta: Meta) -> float:
    """When the origin generated the response, in epoch seconds, on the basis of Age (RFC 9111 §4.2.3)."""
    return meta.stored_at - meta.initial_age - ROUNDING


class Slices:
    """How a body that is too large to be stored whole is stored: cut into slices of `size` bytes, the last one shorter;
    each is stored or missing independently.

    `total` is the body's length in bytes, None while a body of unknown length is still arriving. `generation`
    distinguishes this body's slices from those of any other body that was or will be stored under `key`. `validator` is
    what the origin's response must match when a missing slice is requested: a strong entity tag, or a Last-Modified
    that counts as strong (RFC 9110 §8.8.2.2). If it is None, or if the origin does not support ranges (`ranged`), lost
    slices cannot be fetched again.
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

    `head` is the start of its bytes on an HTTP/1.1 connection, `block` on an HTTP/2 stream, filled in by the shell that
    first serves it. `policy_head` and `policy_block` are the last that a response headers policy made from it, with
    that policy and the request fields it used. `log_fields` is what it adds to the records of standard logs
    (`serving.log_record`). `used` is set at every hit and cleared when eviction passes over it. `size` is its charge in
    bytes. Until `fast_path_until` (epoch seconds) it may be served unchanged to any unconditional request for its key;
    0 if it varies or is not a 200. It was requested from the origin at `requested_ns` and stored at `stored_ns`:
    nanoseconds of the machine's monotonic clock, by which all workers order what they store and remove (`removals`).
    """

    __slots__ = (
        "block",
        "body",
        "born",
        "fast_path_until",
        "head",
        "key",
        "log_fields",
        "meta",
        "policy_block",
        "policy_head",
        "requested_ns",
        "size",
        "slices",
        "stored_ns",
        "used",
    )

    def __init__(self, key: str, meta: Meta, body: bytes, slices: Slices | None = None) -> None:
        self.key = key
        self.meta = meta
        self.body = body
        self.slices = slices
        self.requested_ns = self.stored_ns = 0
        self.head: bytes = b""
        self.log_fields = ""
        self.block: bytes = b""
        self.policy_head: tuple[object, bytes, bytes] | None = None
        self.policy_block: tuple[object, bytes, bytes] | None = None
        self.born = born(meta)
        self.fast_path_until = meta.fresh_until if meta.status == 200 and not meta.vary else 0.0
        self.used = False
        # The key is in several tables, and the headers are also in `head` and `block`.
        self.size = (
            len(body)
            + 2 * len(key)
            + sum([3 * (len(name) + len(value)) + 170 for name, value in meta.headers])
            + sum([len(value) + 100 for value in meta.vary_values])
            + sum([len(tag) + 60 for tag in meta.tags])
            + 1000
        )

    @property
    def length(self) -> int | None:
        """Bytes of the whole body; None while a body of unknown length is still arriving."""
        return len(self.body) if self.slices is None else self.slices.total

    def renewed(self, meta: Meta) -> Stored:
        """The same body with other metadata."""
        return Stored(self.key, meta, self.body, self.slices)
