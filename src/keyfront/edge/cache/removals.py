"""What one worker removes from the cache, and all of them obey.

A cache that passes a successful POST, PUT, PATCH or DELETE on forgets what it has for that URL (RFC 9111 §4.4), and so
must every worker of the machine, for each request that begins after that answer was sent. Two things are written to the
shared memory (`segment`) before the answer goes out:

- a floor, the time of the removal, in the bucket of the path. A response is refused if the origin was asked for it at
  that time or before. This covers what is in the shared memory, and what any worker is still fetching.
- a record in the writer's ring, and then the change word. A worker compares that word before each use of its own
  memory, and if it differs, removes there what the rings tell. One that has fallen behind a whole ring removes
  everything.

Times are of the machine's monotonic clock, which is one for all its processes, in nanoseconds.
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
"""Bytes of a record after this; their checksum with the place of the record."""
_WORD: Final = struct.Struct("<Q")
_TICK: Final = 10
"""A floor counts in 2^10 nanoseconds: 48 bits of them last for nine years, and 16 are left for a checksum."""
_LARGEST: Final = (1 << 62) - 1


class Removal(NamedTuple):
    """A path with a part of a query string whose responses an unsafe request has changed, or, if `exact`, one cache key
    whose stored response turned out to be useless. With an empty key it is everything."""

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
    """The removals of all workers, as one of them sees and makes them. What was removed before this was made is not
    news to it: it has nothing in its memory yet.

    `change[0]` differs from `seen` if there may be news.
    """

    __slots__ = ("_positions", "_segment", "_words", "change", "seen")

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._words = segment.words
        self.change = segment.change
        self.seen = self.change[0]
        self._positions = [self._words[segment.state(worker)] for worker in range(segment.workers)]

    def publish(self, removal: Removal) -> None:
        """Make all workers obey a removal: when this returns, it is obeyed by whatever request begins."""
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
            end = 0  # no worker wrote this number: the others see that it is not theirs to follow
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
        """What others have removed since this was last asked. None: it is not known any more, so it may be anything."""
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

    def is_removed(self, key: str, asked: int, digest: int | None = None) -> bool:
        """Was the response for `key` removed, if the origin was asked for it at `asked` (monotonic nanoseconds)?

        :param digest: the key's, if the caller has it.
        """
        segment = self._segment
        if self._is_below(segment.digest(key) if digest is None else digest, asked):
            return True
        root = root_of(key)
        return root != key and self._is_below(segment.digest(root), asked)

    def _is_below(self, digest: int, asked: int) -> bool:
        first = self._segment.floor(digest)
        for word in self._words[first : first + self._segment.workers].tolist():
            if word:
                tick = word >> 16
                if word & 0xFFFF != crc_hqx(tick.to_bytes(6, "little"), 0xFFFF) or asked >> _TICK <= tick:
                    return True
        return False
