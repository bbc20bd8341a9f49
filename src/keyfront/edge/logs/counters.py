"""The counters of one worker: requests, keys, bytes and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

from keyfront.edge.types.record import HitCounter, Record
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.key_counters import ExpiryStats

_request_of = attrgetter("distribution", "status", "result", "reason")


_key_of = attrgetter("key_pair_id", "hash_algorithm", "distribution")


class Counts:
    """Sums over all records of this worker, and the expiry times of the signatures that it accepted. The follower
    includes them in its report."""

    __slots__ = ("bytes", "ends", "keys", "requests", "taken_us", "verify_us")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str, str]] = Counter()
        self.keys: Counter[tuple[str, str, str]] = Counter()
        self.ends: dict[str, ExpiryStats] = {}
        self.bytes = 0
        self.taken_us = 0
        self.verify_us = 0

    def accepted(self, key_id: str, expires: int, now: float) -> None:
        """Record that a signature by this key was accepted that expires at `expires` (epoch seconds). Called when a
        signature may be new: on the slow path, and on the fast path when the cookies change."""
        ends = self.ends.get(key_id)
        if ends is None:
            self.ends[key_id] = ExpiryStats(expires, expires - now, expires)
        else:
            ends.add(expires, expires - now, expires, now)

    def add(self, records: list[Record]) -> None:
        self.requests.update(map(_request_of, records))
        self.keys.update([_key_of(record) for record in records if record.verdict == "allowed"])
        self.bytes += sum([record.bytes for record in records])
        # The time that a WebSocket was open is not response time.
        self.taken_us += sum([record.time_taken_us for record in records if record.status != 101])
        self.verify_us += sum([record.verify_us for record in records])

    def take(self, counters: Iterable[HitCounter]) -> None:
        """Add hit counters, and reset them."""
        for counter in counters:
            if counter.hits:
                self.requests[counter.request] += counter.hits
                if counter.key is not None:
                    self.keys[counter.key] += counter.hits
                self.bytes += counter.sent
                self.taken_us += counter.taken_us
                counter.hits = counter.sent = counter.taken_us = 0

    def sums(self) -> Sums:
        """A report's counters, as far as they are counted here."""
        return Sums(
            requests=[(*name, n) for name, n in self.requests.items()],
            keys=[(*name, n) for name, n in self.keys.items()],
            bytes=self.bytes,
            taken_us=self.taken_us,
            verify_us=self.verify_us,
            ends=[(key, ends.latest, ends.longest, ends.until) for key, ends in self.ends.items()],
        )
