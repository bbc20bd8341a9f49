"""One record per request, as JSON lines, and the counts that the metrics are made of.

Names follow CloudFront's log fields where one exists (cloudfront-semantics §6). Records are gathered for a few
milliseconds and written by one `write` to a file opened for appending, so that lines of several workers never mix.
Never logged: signatures and policies (a signed URL is a credential: `query` is the viewer's own part of it),
cookies, origin secrets.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

import msgspec

from keyfront.fleet.keycounts import Ends

logger = logging.getLogger("keyfront.edge")

FLUSH_AFTER = 0.02
"""Seconds that a record may wait. What a killed worker can lose of its log is this much."""
LONGEST_UNWRITTEN = 256 * 1024
"""Bytes of records that are kept while the disk refuses them; all others are lost."""


LONGEST_AGENT = 1024
LONGEST_REFERER = 2048
"""Characters of User-Agent and Referer that a record tells; a longer value ends in `CUT`."""
CUT = "[cut]"
MOST_REFUSED = 50
"""Records of requests that the edge refused, for one address and one second. The rest are summed up in one."""
MOST_REFUSED_IN_ALL = 500
"""The same for all addresses together: a flood may come from many."""


def shortened(text: str, longest: int) -> str:
    """`text`, or as much of it as `longest` characters hold together with the mark that says so."""
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """What is known of one request when its answer is out. `time` is epoch seconds, `_us` are microseconds.

    `verdict` is `allowed`, `refused` or empty (no signature needed); `reason` names a refusal: a denial's name or
    another rule's; `signed_by` is `url` or `cookies`; `verify_us` the time spent on routing and on the signature, not
    told of a request that was like one before (`quick`);
    `result` CloudFront's x-edge-result-type and `detail` its x-edge-detailed-result-type. `status` 0: the viewer
    left before there was one. 101 is a WebSocket, recorded at its end: `scheme` is then `ws` or `wss`, `bytes` is what
    the viewer was sent over it, `request_bytes` the handshake and what the viewer sent after it, `reason` why the edge
    ended it or which side broke off. `repeats` says how many more refusals like this one, of the same second, address
    and reason, have no record of their own (`Refusals`). `ssl_protocol` and `ssl_cipher` are of the viewer's
    connection, empty on http.
    """

    time: float
    request_id: str
    client_ip: str
    client_port: int
    method: str
    scheme: str
    host: str
    path: str
    query: str
    protocol_version: str
    status: int
    bytes: int
    time_taken_us: int
    result: str
    detail: str
    distribution: str = ""
    behavior: str = ""
    request_bytes: int = 0
    first_byte_us: int = 0
    user_agent: str = ""
    referer: str = ""
    country: str = ""
    verdict: str = ""
    reason: str = ""
    explanation: str = ""
    verify_us: int = 0
    signed_by: str = ""
    key_pair_id: str = ""
    key_group: str = ""
    hash_algorithm: str = ""
    remembered: bool = False
    ssl_protocol: str = ""
    ssl_cipher: str = ""
    repeats: int = 0


def _is_refused(record: Record) -> bool:
    """Whether the edge refused it itself: at the gate, because it could not be understood, or beyond a limit."""
    return record.verdict == "refused" or not record.distribution or record.result == "LimitExceeded"


class Refusals:
    """Keeps the records of refused requests from growing faster than what is refused is worth.

    Each address leaves `MOST_REFUSED` of them in a second, all together `MOST_REFUSED_IN_ALL`. What comes beyond that
    is summed up by address and reason: the last record of the second stands for all of them, and `repeats` says how
    many more there were. A second is one of the records' own clock.
    """

    __slots__ = ("_all", "_by_address", "_rest", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._all = 0
        self._by_address: dict[str, int] = {}
        self._rest: dict[tuple[str, str], Record] = {}

    def admit(self, record: Record) -> list[Record]:
        """What is to be written now that this one came: nothing, itself, or sums of the second before it as well."""
        second = int(record.time)
        written = self.sums() if second != self._second else []
        self._second = second
        own = self._by_address.get(record.client_ip, 0)
        if own < MOST_REFUSED and self._all < MOST_REFUSED_IN_ALL:
            self._by_address[record.client_ip] = own + 1
            self._all += 1
            written.append(record)
            return written
        name = (record.client_ip, record.reason)
        before = self._rest.get(name)
        if before is None and len(self._rest) >= MOST_REFUSED_IN_ALL:
            record.client_ip = ""  # too many addresses to tell them apart
            name = ("", record.reason)
            before = self._rest.get(name)
        if before is not None:
            record.repeats = before.repeats + 1
        self._rest[name] = record
        return written

    def sums(self) -> list[Record]:
        """The records that stand for what was not written one by one. A new second begins."""
        rest = list(self._rest.values())
        self._rest.clear()
        self._by_address.clear()
        self._all = 0
        return rest

    @property
    def waiting(self) -> bool:
        """Whether there is something to be summed up."""
        return bool(self._rest)


_request_of = attrgetter("distribution", "status", "result", "reason")
_key_of = attrgetter("key_pair_id", "hash_algorithm", "distribution")


class Tally:
    """What hits that count alike are counted as: the names that `Counts` has for a request and for its key."""

    __slots__ = ("hits", "key", "request", "sent", "taken_us")

    def __init__(self, distribution: str, key: tuple[str, str] | None) -> None:
        self.request = (distribution, 200, "Hit", "")
        self.key = None if key is None else (*key, distribution)
        self.hits = self.sent = self.taken_us = 0


class Counts:
    """Sums over all records of this worker, and when the signatures that it accepted end: what `metrics.py` sends with
    its report."""

    __slots__ = ("bytes", "ends", "keys", "requests", "taken_us", "verify_us")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str, str]] = Counter()
        self.keys: Counter[tuple[str, str, str]] = Counter()
        self.ends: dict[str, Ends] = {}
        self.bytes = 0
        self.taken_us = 0
        self.verify_us = 0

    def accepted(self, key_id: str, expires: int, now: float) -> None:
        """A signature of this key, good until `expires`, was accepted. Asked where a signature may be new: on the long
        way, and on the quick one when cookies change."""
        ends = self.ends.get(key_id)
        if ends is None:
            self.ends[key_id] = Ends(expires, expires - now, expires)
        else:
            ends.add(expires, expires - now, expires, now)

    def add(self, records: list[Record]) -> None:
        self.requests.update(map(_request_of, records))
        self.keys.update([_key_of(record) for record in records if record.verdict == "allowed"])
        self.bytes += sum([record.bytes for record in records])
        # How long a WebSocket was open says nothing about how long answers take.
        self.taken_us += sum([record.time_taken_us for record in records if record.status != 101])
        self.verify_us += sum([record.verify_us for record in records])

    def take(self, tallies: Iterable[Tally]) -> None:
        """Add what was tallied, and set the tallies back to nothing."""
        for tally in tallies:
            if tally.hits:
                self.requests[tally.request] += tally.hits
                if tally.key is not None:
                    self.keys[tally.key] += tally.hits
                self.bytes += tally.sent
                self.taken_us += tally.taken_us
                tally.hits = tally.sent = tally.taken_us = 0


class AccessLog:
    """Appends records to `path` (None: only counts them). Reopens the file when it was moved away (log rotation)."""

    def __init__(self, path: Path | None) -> None:
        self.counts = Counts()
        self.lost = 0
        self.failing = False
        """Did the last write fail?"""
        self._path = path
        self._fd = -1
        self._inode = 0
        self._waiting: list[Record | str] = []
        self._unwritten = b""
        self._unwritten_records = 0
        self._tallies: dict[tuple[str, tuple[str, str] | None], Tally] = {}
        self._encoder = msgspec.json.Encoder()
        self._timer: asyncio.TimerHandle | None = None
        self._refusals = Refusals()
        self._refused: list[Record] = []  # to be counted, whether they are written or not
        self._summing: asyncio.TimerHandle | None = None
        if path is not None:
            try:
                self._open()
            except OSError as error:  # a full disk, say: it is tried again with each flush
                self._failed(error)

    def add(self, record: Record) -> None:
        if _is_refused(record):
            self._add_refused(record)
        else:
            self._waiting.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def _add_refused(self, record: Record) -> None:
        self._refused.append(record)
        self._waiting += self._refusals.admit(record)
        if self._summing is None and self._refusals.waiting:
            self._summing = asyncio.get_running_loop().call_later(1.0, self._sum_up)

    def _sum_up(self) -> None:
        self._summing = None
        self._waiting += self._refusals.sums()
        self.flush()

    def tally(self, distribution: str, key: tuple[str, str] | None) -> Tally:
        """What hits of this distribution by this key (id and hash; None: no signature needed) are counted as."""
        name = (distribution, key)
        found = self._tallies.get(name)
        if found is None:
            if len(self._tallies) >= 4096:
                self.flush()
                self._tallies.clear()
            found = self._tallies[name] = Tally(distribution, key)
        return found

    def hit(self, record: str) -> None:
        """Add the record of a hit that a tally has counted already: a whole line (`quick`)."""
        self._waiting.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Write what waits. A disk that refuses costs the records (`lost` counts them), never a viewer's request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        refused, self._refused = self._refused, []
        if not waiting and not refused and not self.failing:
            return
        served = [each for each in waiting if type(each) is Record and not _is_refused(each)]
        self.counts.add(served + refused)
        self.counts.take(self._tallies.values())
        if self._path is None:
            return
        encode = self._encoder.encode
        data = "".join(
            [each if type(each) is str else encode(each).decode() + "\n" for each in waiting]
        ).encode()
        try:
            self._reopen_if_moved()
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]
            self._unwritten_records = 0
            while data:
                data = data[os.write(self._fd, data) :]
            self.failing = False
        except OSError as error:
            self._failed(error)
            if self._unwritten or len(data) > LONGEST_UNWRITTEN:
                self.lost += len(waiting)
            else:
                self._unwritten, self._unwritten_records = data, len(waiting)

    def retry(self) -> None:
        """Write what could not be written, if anything. Called about once a second: without it, a worker that gets no
        requests would not notice that there is room again, and would be reported for ever."""
        if self.failing:
            self.flush()

    def _failed(self, error: OSError) -> None:
        if not self.failing:
            logger.warning("the access log cannot be written: %s", error)
        self.failing = True

    def close(self) -> None:
        if self._summing is not None:
            self._summing.cancel()
            self._sum_up()
        self.flush()
        self.lost += self._unwritten_records
        self._unwritten, self._unwritten_records = b"", 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path = None

    def _open(self) -> None:
        assert self._path is not None  # noqa: S101 - asked by the callers
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._inode = os.fstat(fd).st_ino
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _reopen_if_moved(self) -> None:
        assert self._path is not None  # noqa: S101
        try:
            if self._fd >= 0 and os.stat(self._path).st_ino == self._inode:
                return
        except FileNotFoundError:
            pass
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._open()
