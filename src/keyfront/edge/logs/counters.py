"""The counters of one worker: requests, keys, bytes and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from keyfront.edge.types.record import HitCounter, Record
from keyfront.errors import Denial
from keyfront.fleet import edge_counters as families
from keyfront.fleet.counter_table import CounterTable
from keyfront.fleet.edge_counters import OTHER, Sums
from keyfront.fleet.key_counters import ExpiryStats

_STATUSES: Final = {int(status): str(int(status)) for status in HTTPStatus} | {0: "0"}
_VERSIONS: Final = frozenset({"1.0", "1.1", "2.0"})
_DENIALS: Final = frozenset(denial.reason for denial in Denial)

_MOST_PLACES: Final = 8192

_Place = tuple[str, int, str, str, str]
"""A request's distribution, status, result, reason, and HTTP version."""
_Cells = tuple[int, int, int, int, int]
"""Where it is counted: as a request, by version, the bytes sent and received, and the duration."""


class Counts:
    """Sums over all requests of this worker, and the expiry times of the signatures that it accepted. The follower
    includes them in its report.

    Requests that the fast path answers are counted by `HitCounter`s first.

    :param table: where the sums are; by default in this process's own memory.
    """

    def __init__(self, table: CounterTable | None = None) -> None:
        self.table = table = CounterTable.private() if table is None else table
        self.keys: Counter[tuple[str, str, str]] = Counter()
        """Requests allowed by each key, hash and distribution, without a limit on their number."""
        self.ends: dict[str, ExpiryStats] = {}
        self._places: dict[_Place, _Cells] = {}
        self._cells = table.cells
        self._requests = table.of(families.REQUESTS)
        self._versions = table.of(families.VERSIONS)
        self._sent = table.of(families.RESPONSE_BYTES)
        self._received = table.of(families.REQUEST_BYTES)
        self._duration = table.of(families.DURATION)
        self._signatures = table.of(families.SIGNATURES)
        self._denials = table.of(families.DENIALS)
        self._verify = table.of(families.VERIFY)
        self._origin_duration = table.of(families.ORIGIN_DURATION)
        self._origin_failures = table.of(families.ORIGIN_FAILURES)

    def accepted(self, key_id: str, expires: int, now: float) -> None:
        """Record that a signature by this key was accepted that expires at `expires` (epoch seconds). Called when a
        signature may be new: on the slow path, and on the fast path when the cookies change."""
        ends = self.ends.get(key_id)
        if ends is None:
            self.ends[key_id] = ExpiryStats(expires, expires - now, expires)
        else:
            ends.add(expires, expires - now, expires, now)

    def add(self, records: Iterable[Record]) -> None:
        """Count requests by their records."""
        cells = self._cells
        for record in records:
            distribution, verdict, status = record.distribution, record.verdict, record.status
            place = (distribution, status, record.result, record.reason, record.protocol_version)
            requests, versions, sent, received, duration = self._places.get(place) or self._locate(place)
            cells[requests] += 1
            cells[versions] += 1
            cells[sent] += record.bytes
            cells[received] += record.request_bytes
            if status != 101:  # the time that a WebSocket was open is not response time
                cells[duration] += 1
                cells[duration + 1] += record.time_taken_us
            if verdict == "allowed":
                key_id, algorithm = record.key_pair_id, record.hash_algorithm
                self.keys[key_id, algorithm, distribution] += 1
                cells[self._signatures[key_id, record.key_group, algorithm, distribution]] += 1
                self._verify.observe((), record.verify_us)
            elif verdict == "refused" and record.reason in _DENIALS:
                # Whatever else the viewer names as a key could be anything.
                key_id = record.key_pair_id if record.key_group or not record.key_pair_id else OTHER
                cells[self._denials[distribution, record.reason, key_id, record.key_group]] += 1
                self._verify.observe((), record.verify_us)

    def take(self, counters: Iterable[HitCounter]) -> None:
        """Add hit counters, and reset them."""
        cells = self._cells
        for counter in counters:
            hits = counter.hits
            distribution = counter.distribution
            place = (distribution, 200, "Hit", "", counter.version)
            requests, versions, sent, received, duration = self._places.get(place) or self._locate(place)
            cells[requests] += hits
            cells[versions] += hits
            cells[sent] += counter.sent
            cells[received] += counter.received
            cells[duration] += hits
            cells[duration + 1] += counter.taken_us
            if counter.key is not None:
                key_id, algorithm, group = counter.key
                self.keys[key_id, algorithm, distribution] += hits
                cells[self._signatures[key_id, group, algorithm, distribution]] += hits
            counter.hits = counter.sent = counter.received = counter.taken_us = 0

    def _locate(self, place: _Place) -> _Cells:
        """Where a request is counted, which is then remembered."""
        distribution, status, result, reason, version = place
        found = (
            self._requests[distribution, _STATUSES.get(status, OTHER), result, reason],
            self._versions[version if version in _VERSIONS else OTHER,],
            self._sent[distribution,],
            self._received[distribution,],
            self._duration[distribution,],
        )
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        self._places[place] = found
        return found

    def verified(self, us: int) -> None:
        """Record how long a signature check took (microseconds) whose request has no `Record`."""
        self._verify.observe((), us)

    def origin_answered(self, distribution: str, origin: str, seconds: float) -> None:
        """Record the head of an origin's response."""
        self._origin_duration.observe((distribution, origin), int(seconds * 1e6))

    def origin_failed(self, distribution: str, origin: str, reason: str) -> None:
        """Record that an origin did not respond."""
        self._cells[self._origin_failures[distribution, origin, reason]] += 1

    @property
    def requests(self) -> Counter[tuple[str, int, str, str]]:
        """Requests since this worker started, by distribution, status, result and reason."""
        return Counter(
            {
                (distribution, -1 if status == OTHER else int(status), result, reason): number
                for name, (distribution, status, result, reason), (number,) in (
                    one for one in self.table.since_start() if one[0] == families.REQUESTS.name
                )
            }
        )

    def sums(self) -> Sums:
        """A report's counters."""
        return Sums(
            series=self.table.since_start(),
            shown=self.table.shared,
            keys=[(*name, n) for name, n in self.keys.items()],
            ends=[(key, ends.latest, ends.longest, ends.until) for key, ends in self.ends.items()],
        )
