"""What one worker counts: requests, keys, bytes and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType

from keyfront.edge.types.record import HitCounter, Record
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.key_counters import ExpiryStats

_request_of = attrgetter("distribution", "status", "result", "reason")


_key_of = attrgetter("key_pair_id", "hash_algorithm", "distribution")


class Counts:
    """Sums over all records of this worker, and when the signatures that it accepted end: what `metrics.py` sends with
    its report."""

    __slots__ = ("bytes", "ends", "keys", "requests", "taken_us", "verify_us")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str, str]] = Counter()
        self.keys: Counter[tuple[str, str, str]] = Counter()
        self.ends: dict[str, ExpiryStats] = {}
        self.bytes = 0
        self.taken_us = 0
        self.verify_us = 0

    def accepted(self, key_id: str, expires: int, now: float) -> None:
        """A signature of this key, good until `expires`, was accepted. Asked where a signature may be new: on the long
        way, and on the quick one when cookies change."""
        ends = self.ends.get(key_id)
        if ends is None:
            self.ends[key_id] = ExpiryStats(expires, expires - now, expires)
        else:
            ends.add(expires, expires - now, expires, now)

    def add(self, records: list[Record]) -> None:
        self.requests.update(map(_request_of, records))
        self.keys.update([_key_of(record) for record in records if record.verdict == "allowed"])
        self.bytes += sum([record.bytes for record in records])
        # How long a WebSocket was open says nothing about how long answers take.
        self.taken_us += sum([record.time_taken_us for record in records if record.status != 101])
        self.verify_us += sum([record.verify_us for record in records])

    def take(self, tallies: Iterable[HitCounter]) -> None:
        """Add what was tallied, and set the tallies back to nothing."""
        for tally in tallies:
            if tally.hits:
                self.requests[tally.request] += tally.hits
                if tally.key is not None:
                    self.keys[tally.key] += tally.hits
                self.bytes += tally.sent
                self.taken_us += tally.taken_us
                tally.hits = tally.sent = tally.taken_us = 0


def sums(
    counts: Counts,
    *,
    connections: int,
    cache: tuple[int, int, int],
    lost: int,
    disk: tuple[int, int] = (0, 0),
    shared: tuple[int, int, int] = (0, 0, 0),
    run: str = "",
    limited: Mapping[str, int] = MappingProxyType({}),
    gauges: Mapping[str, int] = MappingProxyType({}),
    websockets: tuple[int, int, int] = (0, 0, 0),
) -> Sums:
    return Sums(
        [(*name, n) for name, n in counts.requests.items()],
        [(*name, n) for name, n in counts.keys.items()],
        counts.bytes,
        counts.taken_us,
        counts.verify_us,
        connections,
        *cache,
        lost,
        *disk,
        run,
        [(key, ends.latest, ends.longest, ends.until) for key, ends in counts.ends.items()],
        dict(limited),
        *websockets,
        dict(gauges),
        *shared,
    )
