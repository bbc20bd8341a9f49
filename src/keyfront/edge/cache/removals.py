"""Cache removals that one worker makes and all workers obey.

A cache that forwards a successful POST, PUT, PATCH, or DELETE must invalidate what it has stored for that URL (RFC
9111 §4.4). Every worker of the machine must do so too, for each request that begins after the answer was sent. Two
things are written to shared memory (`shared_segment`) before the answer is sent:

- A floor: the time of the removal, stored in the bucket of the path. A response is rejected if its request went to the
  origin at or before that time. This covers responses in shared memory and responses that any worker is still
  fetching.
- A record in the writer's ring, followed by the change word. A worker compares that word before each use of its own
  memory. If it differs, the worker applies the removals in the rings. A worker that has fallen behind by a whole ring
  removes everything.

All times are nanoseconds of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from time import monotonic_ns
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from keyfront.edge.cache.shared_segment import RING, Segment
from keyfront.edge.rules.cache_key import root_of

_PREFIX: Final = struct.Struct("<II")
"""Bytes of the record after this prefix; their checksum, seeded with the position of the record."""
_WORD: Final = struct.Struct("<Q")
_TICK: Final = 10
"""Floors count in units of 2^10 nanoseconds: 48 bits then last for nine years, which leaves 16 bits for a checksum."""
_LARGEST: Final = (1 << 62) - 1


class Removal(NamedTuple):
    """What to remove: all responses for a path with part of a query string, which an unsafe request has changed, or,
    if `exact`, the one cache key whose stored response proved unusable. An empty key removes everything."""

    key: str
    query: str = ""
    exact: bool = False


EVERYTHING: Final = Removal("")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Removal).decode


def _floor(ns: int) -> int:
    tick = (ns >> _TICK) + 1
    return tick << 16 | crc_hqx(tick.to_bytes(6, "little"), 0xFFFF)


class Removals:
    """The removals of all workers, as one worker reads and publishes them. Removals from before this object was
    created are not reported: the worker's memory was still empty then.

    New removals may exist if `change[0]` differs from `seen`.
    """

    __slots__ = ("_positions", "_segment", "_words", "change", "seen")

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._words = segment.words
        self.change = segment.change
        self.seen = self.change[0]
        self._positions = [self._words[segment.state(worker)] for worker in range(segment.workers)]

    def publish(self, removal: Removal) -> None:
        """Publish a removal to all workers. Once this returns, every request that begins from then on obeys it."""
        segment, words = self._segment, self._words
        now = monotonic_ns()
        name = removal.key if removal.exact else root_of(removal.key + removal.query)
        words[segment.floor(segment.digest(name)) + segment.number] = _floor(now)
        if segment.workers == 1:
            return
        payload = _encode(removal)
        if len(payload) > RING // 4:
            payload = _encode(EVERYTHING)
        state = segment.state(segment.number)
        end = words[state]
        if end > _LARGEST:
            end = 0  # no worker wrote this number: the others see that they cannot follow it
        stop = end + _PREFIX.size + len(payload)
        words[state + 1] = stop
        self._write(end, _PREFIX.pack(len(payload), crc32(payload, end & 0xFFFFFFFF)) + payload)
        words[state] = stop
        self.change[0] = segment.number << 48 | (stop & 0xFFFFFFFFFFFF)

    def _write(self, position: int, record: bytes) -> None:
        data, ring = self._segment.data, self._segment.ring(self._segment.number)
        at = position % RING
        first = record[: RING - at]
        data[ring + at : ring + at + len(first)] = first
        rest = record[len(first) :]
        data[ring : ring + len(rest)] = rest

    def poll(self) -> list[Removal] | None:
        """What other workers have removed since the last call. None means that the list is incomplete, so any response
        may have been removed."""
        segment, words = self._segment, self._words
        self.seen = self.change[0]
        found: list[Removal] | None = []
        for worker in range(segment.workers):
            if worker == segment.number:
                continue
            end = words[segment.state(worker)]
            position = self._positions[worker]
            if end == position:
                continue
            self._positions[worker] = end
            if found is not None:
                records = self._read(worker, position, end)
                found = None if records is None else found + records
        return found if found is None or EVERYTHING not in found else None

    def _read(self, worker: int, position: int, end: int) -> list[Removal] | None:
        segment = self._segment
        if not position < end <= position + RING:
            return None
        ring = segment.ring(worker)
        first, last = position % RING, end % RING
        text = segment.data[ring + first : ring + last] if first < last else b""
        if not text:
            text = segment.data[ring + first : ring + RING] + segment.data[ring : ring + last]
        if segment.words[segment.state(worker) + 1] > position + RING:
            return None
        found = []
        at = 0
        while at < len(text):
            if at + _PREFIX.size > len(text):
                return None
            length, checksum = _PREFIX.unpack_from(text, at)
            payload = text[at + _PREFIX.size : at + _PREFIX.size + length]
            if crc32(payload, (position + at) & 0xFFFFFFFF) != checksum or len(payload) != length:
                return None
            try:
                found.append(_decode(payload))
            except msgspec.MsgspecError:
                return None
            at += _PREFIX.size + length
        return found

    def is_removed(self, key: str, requested_ns: int, digest: int | None = None) -> bool:
        """Whether the response for `key` was removed, given that its request went to the origin at `requested_ns`
        (monotonic nanoseconds).

        :param digest: the digest of `key`, if the caller already has it.
        """
        segment = self._segment
        if self._is_below(segment.digest(key) if digest is None else digest, requested_ns):
            return True
        root = root_of(key)
        return root != key and self._is_below(segment.digest(root), requested_ns)

    def _is_below(self, digest: int, requested_ns: int) -> bool:
        first = self._segment.floor(digest)
        for word in self._words[first : first + self._segment.workers].tolist():
            if word:
                tick = word >> 16
                if (
                    word & 0xFFFF != crc_hqx(tick.to_bytes(6, "little"), 0xFFFF)
                    or requested_ns >> _TICK <= tick
                ):
                    return True
        return False
