"""The shared-memory cache: responses that one worker stores and every worker of the machine can find.

Each worker appends its responses to its own log in shared memory (`shared_segment`), overwriting the oldest records
once the log is full, and then adds them to its part of the index. All workers read all logs. When a reader finds a
record that will soon be overwritten, it appends a fresh copy, so responses in demand stay cached.

A record consists of a prefix, a head (`entry`), and a body. A reader trusts it only after three checks. The prefix
must hold the record's own position in the log. The checksums of prefix and head, and of the body, must match. The head
must repeat the key. The writer claims the bytes before it writes them. After copying a record, a reader checks the
claim again and discards the copy if the bytes were claimed in the meantime. A half-written record left behind by a
killed worker is therefore harmless.

If several records have the same key, the most recently written one wins. Removed responses (`removals`) are rejected
at lookup.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from keyfront.edge.cache.entry import Head, decode_head, encode_head, head_of, stored_of
from keyfront.edge.cache.removals import Removals
from keyfront.edge.cache.shared_segment import WAYS, Segment
from keyfront.edge.rules.cache_key import failure_key, variant_key
from keyfront.edge.rules.vary import variant_values
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Stored

_PREFIX: Final = struct.Struct("<QQQIIII")
"""Position in the log; when the request went to the origin and when the record was written (monotonic nanoseconds);
bytes of the head and of the body; checksum of the body; checksum of all preceding fields and the head."""
_SEAL: Final = struct.Struct("<I")
_ALIGN: Final = 8
_LARGEST: Final = (1 << 62) - 1


class Failure(NamedTuple):
    """An origin failure that requests for the same key share until `until` (epoch seconds).

    `snapshot` is the number of the configuration snapshot in force at the time. Under the next snapshot, the origin is
    tried again.
    """

    kind: str
    status: int
    detail: str
    reason: str
    until: float
    snapshot: int


_encode_failure = msgspec.msgpack.Encoder().encode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


class _Found(NamedTuple):
    worker: int
    position: int
    requested_ns: int
    stored_ns: int
    head_length: int
    body_length: int
    body_checksum: int
    seal: int


class Arena:
    """One worker's view of the shared responses. Belongs to the worker's event loop.

    :param ended: returns whether an invalidation has ended a response, given its key, the number of the snapshot under
        which it was requested, and its cache tags.
    """

    def __init__(
        self, segment: Segment, removals: Removals, ended: Callable[[str, int, tuple[str, ...]], bool]
    ) -> None:
        self._segment = segment
        self._removals = removals
        self._ended = ended
        self._words, self._data, self._log = segment.words, segment.data, segment.log
        # By worker: the index of the word that holds how far its log is claimed, and the offset at which the log
        # begins.
        self._claims = [segment.state(worker) + 2 for worker in range(segment.workers)]
        self._starts = [segment.log_of(worker) for worker in range(segment.workers)]
        self._own_claim = self._claims[segment.number]
        self._own_start = self._starts[segment.number]
        self._failures = [segment.state(worker) + 3 for worker in range(segment.workers)]
        self.finds = 0
        """Number of responses and slices found here."""
        self.evictions = 0
        """Number of records that this worker has overwritten since it started."""
        self._tail = self._words[self._own_claim]  # position of the oldest record not yet overwritten
        self.largest = segment.log // 2
        """Largest record accepted, in bytes."""

    @property
    def used(self) -> int:
        """Bytes in use in this worker's log."""
        return min(self._words[self._own_claim], self._log)

    @property
    def counts(self) -> tuple[int, int, int]:
        """This worker's bytes used, finds, and evictions, for the report."""
        return self.used, self.finds, self.evictions

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self, key: str, forwarded: Callable[[], Headers], after: int = 0) -> Stored | None:
        """The response for `key`; see `MemoryTier.find`.

        :param after: ignore records written at or before this time (monotonic nanoseconds).
        """
        digest = self._segment.digest(key)
        for found in self._candidates(digest, after):
            head = self._head(found, key)
            if head is None:
                continue
            if not head.names:
                return None if _varies(head) else self._response(found, head, key, key, digest)
            if self._removals.is_removed(key, found.requested_ns, digest):
                return None
            if self._fades(found):
                self._append(digest, found.requested_ns, found.stored_ns, head, b"")
            name = variant_key(key, head.generation, variant_values(head.names, forwarded()))
            name_digest = self._segment.digest(name)
            for variant in self._candidates(name_digest, after):
                inner = self._head(variant, name)
                if inner is not None and inner.meta is not None and inner.meta.vary == head.names:
                    return self._response(variant, inner, name, key, name_digest)
            return None
        return None

    def exact(self, key: str) -> Stored | None:
        """The response stored under this key with `put_exact`."""
        digest = self._segment.digest(key)
        for found in self._candidates(digest, 0):
            head = self._head(found, key)
            if head is not None:
                return self._response(found, head, key, key, digest)
        return None

    def has(self, key: str) -> bool:
        """Whether a record exists for `key`. Does not check its body, which may still turn out to be invalid."""
        return any(
            self._head(found, key) is not None for found in self._candidates(self._segment.digest(key), 0)
        )

    def failure(self, key: str, now: float, snapshot: int) -> Failure | None:
        """The origin failure that another worker recorded for `key`, if it still applies.

        :param now: epoch seconds.
        :param snapshot: number of the current snapshot; a failure recorded under a different one does not apply.
        """
        words = self._words
        for word in self._failures:
            if words[word] > now:
                break
        else:
            return None
        name = failure_key(key)
        for found in self._candidates(self._segment.digest(name), 0):
            if self._head(found, name) is not None:
                body = self._body(found)
                try:
                    failure = _decode_failure(body) if body is not None else None
                except msgspec.MsgspecError:
                    return None
                alive = failure is not None and now < failure.until and failure.snapshot == snapshot
                return failure if alive else None
        return None

    def _response(self, found: _Found, head: Head, name: str, key: str, digest: int) -> Stored | None:
        """The response in a record, or None if it was invalidated or removed, or if its body does not match its
        checksum.

        :param digest: the digest of `name`.
        """
        meta = head.meta
        if meta is None or self._ended(key, meta.snapshot, meta.tags):
            return None
        if self._removals.is_removed(key, found.requested_ns, digest if name is key else None):
            return None
        body = self._body(found)
        stored = stored_of(key, head, body) if body is not None else None
        if stored is None:
            return None
        stored.requested_ns, stored.stored_ns = found.requested_ns, found.stored_ns
        self.finds += 1
        if self._fades(found):
            self._append(digest, found.requested_ns, found.stored_ns, head, stored.body)
        return stored

    def _candidates(self, digest: int, after: int) -> list[_Found]:
        """The records that the index lists for a digest and that were written after `after`, latest first."""
        segment, words = self._segment, self._words
        if not self._log:
            return []
        first = segment.bucket(digest)
        places = first + segment.workers * WAYS
        hashes = words[first:places].tolist()
        if digest not in hashes:
            return []
        candidates = []
        for way, value in enumerate(hashes):
            if value == digest:
                found = self._prefix(way // WAYS, words[places + way] - 1)
                if found is not None and found.stored_ns > after:
                    candidates.append(found)
        if len(candidates) > 1:
            candidates.sort(key=_by_time, reverse=True)
        return candidates

    def _stands(self, worker: int, position: int) -> bool:
        """Whether the bytes at `position` are still unclaimed by a later record."""
        return position >= self._words[self._claims[worker]] - self._log

    def _prefix(self, worker: int, position: int) -> _Found | None:
        log = self._log
        claimed = self._words[self._claims[worker]]
        at = position % log
        if not 0 <= position < claimed or position < claimed - log or at + _PREFIX.size > log:
            return None
        members = _PREFIX.unpack_from(self._data, self._starts[worker] + at)
        place, _, _, head, body, _, _ = members
        if place != position or at + _PREFIX.size + head + body > log:
            return None
        return _Found(worker, *members)

    def _head(self, found: _Found, key: str) -> Head | None:
        """The head of a record, if its checksum matches and it has this key."""
        start = self._starts[found.worker] + found.position % self._log + _PREFIX.size
        data = self._data[start : start + found.head_length]
        prefix = _PREFIX.pack(*found[1:7], 0)[: -_SEAL.size]
        if crc32(data, crc32(prefix)) != found.seal or not self._stands(found.worker, found.position):
            return None
        try:
            head = decode_head(data)
        except msgspec.MsgspecError:
            return None
        return head if head.key == key else None

    def _body(self, found: _Found) -> bytes | None:
        """The body of a record, if its checksum matches."""
        start = self._starts[found.worker] + found.position % self._log + _PREFIX.size + found.head_length
        body = self._data[start : start + found.body_length]
        if not self._stands(found.worker, found.position) or crc32(body) != found.body_checksum:
            return None
        return body

    def _fades(self, found: _Found) -> bool:
        """Whether the record will soon be overwritten: more than three quarters of the log have been claimed since it
        began."""
        return self._words[self._claims[found.worker]] - found.position > self._log * 3 // 4

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, stored: Stored) -> None:
        """Share a response, replacing the one that it supersedes.

        `stored.requested_ns` is when the request went to the origin, `stored.stored_ns` when the response was stored
        (both in monotonic nanoseconds). A response larger than `largest` is ignored.
        """
        if stored.size > self.largest:
            return
        key, vary = stored.key, stored.meta.vary
        digest = self._segment.digest(key)
        name = key
        if vary:
            generation = self._generation(key, digest, vary) or os.urandom(8).hex()
            # Rewritten on every put, so that it outlives the variants it points to.
            signpost = Head(key, names=vary, generation=generation)
            self._append(digest, stored.requested_ns, stored.stored_ns, signpost, b"")
            name = variant_key(key, generation, stored.meta.vary_values)
            digest = self._segment.digest(name)
        head = head_of(stored, name)
        if head is not None:
            self._append(digest, stored.requested_ns, stored.stored_ns, head, stored.body)

    def put_exact(self, stored: Stored) -> None:
        """Share a slice under its exact key, regardless of what the full response varies on."""
        head = head_of(stored, stored.key)
        if head is not None and stored.size <= self.largest:
            digest = self._segment.digest(stored.key)
            self._append(digest, stored.requested_ns, stored.stored_ns, head, stored.body)

    def put_failure(self, key: str, failure: Failure) -> None:
        """Share an origin failure with the other workers."""
        name = failure_key(key)
        now = monotonic_ns()
        self._append(self._segment.digest(name), now, now, Head(name), _encode_failure(failure))
        word = self._failures[self._segment.number]
        self._words[word] = max(self._words[word], int(failure.until) + 1)

    def _generation(self, key: str, digest: int, names: tuple[bytes, ...]) -> str:
        """The generation in the signpost to the variants of `key`; empty if no signpost for these field names
        exists."""
        for found in self._candidates(digest, 0):
            head = self._head(found, key)
            if head is not None:
                same = head.names == names and not self._removals.is_removed(key, found.requested_ns, digest)
                return head.generation if same else ""
        return ""

    def _append(self, digest: int, requested_ns: int, stored_ns: int, head: Head, body: bytes) -> None:
        """Append a record to this worker's log and add it to the index."""
        log, words, data = self._log, self._words, self._data
        text = encode_head(head)
        body_at = _PREFIX.size + len(text)
        size = _aligned(body_at + len(body))
        if size > self.largest:
            return
        claimed = words[self._own_claim]
        if claimed > _LARGEST or claimed % _ALIGN:
            claimed = self._tail = 0  # no worker wrote this number
        at = claimed % log
        if at + size > log:
            claimed += log - at  # a record never wraps around the end of the log
            at = 0
        prefix = _PREFIX.pack(claimed, requested_ns, stored_ns, len(text), len(body), crc32(body), 0)[
            : -_SEAL.size
        ]
        if self._tail < claimed + size - log:
            self._overwrite(claimed + size)
        words[self._own_claim] = claimed + size
        start = self._own_start + at
        data[start : start + body_at] = b"".join((prefix, _SEAL.pack(crc32(text, crc32(prefix))), text))
        data[start + body_at : start + body_at + len(body)] = body
        self._enter(digest, claimed)

    def _overwrite(self, end: int) -> None:
        """Count the records that are overwritten when the log is claimed up to `end`."""
        log = self._log
        while self._tail < end - log:
            at = self._tail % log
            size = log - at  # used if no record begins here
            if at + _PREFIX.size <= log:
                place, _, _, head, body, _, _ = _PREFIX.unpack_from(self._data, self._own_start + at)
                if place == self._tail:
                    self.evictions += 1
                    size = _aligned(_PREFIX.size + head + body)
            self._tail += size

    def _enter(self, digest: int, position: int) -> None:
        """Add a record to this worker's part of the index."""
        words = self._words
        bucket = self._segment.bucket(digest)
        first = bucket + self._segment.number * WAYS
        places = first + self._segment.workers * WAYS
        held = words[first : first + WAYS].tolist()
        if digest in held:
            way = held.index(digest)
        else:
            positions = words[places : places + WAYS].tolist()
            way = positions.index(min(positions))
            words[places + way] = 0
            words[first + way] = digest
        words[places + way] = position + 1


def _by_time(found: _Found) -> int:
    return found.stored_ns


def _varies(head: Head) -> bool:
    return head.meta is not None and bool(head.meta.vary)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
