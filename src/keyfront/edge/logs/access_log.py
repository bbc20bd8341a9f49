"""The access log: one JSON line per request. It also supplies the counters for metrics.

Fields are named after CloudFront's log fields where one exists (cloudfront-semantics §6). Records are collected for a
few milliseconds and then appended to the file under a lock, so that lines of several workers never mix.
Signatures, policies, cookies and origin secrets are never logged: a signed URL is a credential, so `query` contains
only the viewer's own part of the query string.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from keyfront.edge.logs.append_file import AppendFile, LineWriter, Retention
from keyfront.edge.logs.counters import Counts
from keyfront.edge.logs.ledger import CredentialLedger
from keyfront.edge.logs.spool import Spool
from keyfront.edge.types.record import HitCounter, Record

FLUSH_AFTER = 0.02
"""Seconds that a record may wait to be written, which is also the most that a killed worker can lose of its log."""
SUM_AFTER = 1.0
"""Seconds after which the refused requests of an unfinished second are summed up, if no later record does it."""
MAX_COUNTERS = 4096
"""Hit counters that are reused; further ones replace them all."""

LONGEST_AGENT = 1024
LONGEST_REFERER = 2048
"""Characters of User-Agent and Referer in a record; a longer value ends in `CUT`."""
CUT = "[cut]"
MOST_REFUSED = 50
"""Records of refused requests that are written per address and second. Further ones are aggregated."""
MOST_REFUSED_IN_ALL = 500
"""The same for all addresses together, since a flood may come from many."""


def shortened(text: str, longest: int) -> str:
    """`text`, truncated to `longest` characters if it is longer; the last of them are then `CUT`."""
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def _is_refused(record: Record) -> bool:
    """Whether the edge itself refused the request: for its signature, because it was malformed, or over a limit."""
    return record.verdict == "refused" or not record.distribution or record.result == "LimitExceeded"


class Refusals:
    """Limits how many records of refused requests are written, so that a flood of them cannot fill the disk.

    In each second, `MOST_REFUSED` records are written per address and `MOST_REFUSED_IN_ALL` in total. Further ones are
    aggregated by address and reason: the last record of the second represents all of them, and its `repeats` is the
    number of additional ones. Seconds are determined by the records' own times.
    """

    __slots__ = ("_all", "_by_address", "_rest", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._all = 0
        self._by_address: dict[str, int] = {}
        self._rest: dict[tuple[str, str], Record] = {}

    def admit(self, record: Record) -> list[Record]:
        """Process a record. Returns the records to write now: the record itself, or nothing; if it begins a new second,
        preceded by the aggregated records of the last one."""
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
            record.client_ip = ""  # too many addresses to tell apart
            name = ("", record.reason)
            before = self._rest.get(name)
        if before is not None:
            record.repeats = before.repeats + 1
        self._rest[name] = record
        return written

    def sums(self) -> list[Record]:
        """The records that represent those that were not written individually. Starts a new second."""
        rest = list(self._rest.values())
        self._rest.clear()
        self._by_address.clear()
        self._all = 0
        return rest

    @property
    def waiting(self) -> bool:
        """Whether aggregated records are waiting to be written."""
        return bool(self._rest)


class AccessLog:
    """Appends records to a file, which is rotated by size and age, or by another program that moves it away.

    :param path: None if records are only counted.
    :param counts: where requests are counted.
    :param spool: where records for standard logs go; None: nowhere.
    """

    def __init__(
        self,
        path: Path | None,
        counts: Counts | None = None,
        *,
        spool: Spool | None = None,
        retention: Retention = Retention(),
    ) -> None:
        self.counts = Counts() if counts is None else counts
        self.spool = spool
        self.ledger: CredentialLedger | None = None
        """Counts from where credentials are used. None: nobody does."""
        self._writer: LineWriter | None = None
        self._waiting: list[Record | str] = []
        self._counters: dict[tuple[str, tuple[str, str, str] | None, str], HitCounter] = {}
        self.touched: list[HitCounter] = []
        """The counters with hits that are not in `counts` yet. Whoever counts the first such hit adds the counter."""
        self._encoder = msgspec.json.Encoder()
        self._timer: asyncio.TimerHandle | None = None
        self._refusals = Refusals()
        self._refused: list[Record] = []  # to be counted, whether or not they are written
        self._summing: asyncio.TimerHandle | None = None
        if path is not None:
            self._writer = LineWriter(AppendFile(path, 0o640, retention=retention), "the access log")
            self._writer.write(b"", 0)

    @property
    def lost(self) -> int:
        """The number of records that could not be written."""
        return 0 if self._writer is None else self._writer.lost

    @property
    def failing(self) -> bool:
        """Whether the last write failed, of the log or of the spool."""
        return any(one is not None and one.failing for one in (self._writer, self._spool_writer))

    @property
    def _spool_writer(self) -> LineWriter | None:
        return None if self.spool is None else self.spool.writer

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
            self._summing = asyncio.get_running_loop().call_later(SUM_AFTER, self._sum_up)

    def _sum_up(self) -> None:
        self._summing = None
        self._waiting += self._refusals.sums()
        self.flush()

    def hit_counter(
        self, distribution: str, key: tuple[str, str, str] | None, version: str = "1.1"
    ) -> HitCounter:
        """The counter for hits of this distribution that were signed with this key.

        :param key: the key pair's ID, the hash algorithm and the key group, None if no signature was required.
        :param version: the HTTP version.
        """
        name = (distribution, key, version)
        found = self._counters.get(name)
        if found is None:
            if len(self._counters) >= MAX_COUNTERS:
                self._counters.clear()
            found = self._counters[name] = HitCounter(distribution, key, version)
        return found

    def hit(self, record: str) -> None:
        """Add the record of a hit from the fast path: a complete line of JSON. A `HitCounter` has already counted the
        hit."""
        self._waiting.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Count and write the waiting records. If the disk fails, records are lost (`lost` counts them), but no request
        fails."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        refused, self._refused = self._refused, []
        if not waiting and not refused:
            return
        served = [each for each in waiting if type(each) is Record and not _is_refused(each)]
        self.counts.add(served + refused)
        touched, self.touched = self.touched, []
        self.counts.take(touched)
        if self.ledger is not None:
            self.ledger.count()
        if self.spool is not None:
            self.spool.flush()
        if self._writer is not None:
            encode = self._encoder.encode
            lines = [each if type(each) is str else encode(each).decode() + "\n" for each in waiting]
            self._writer.write("".join(lines).encode(), len(lines))

    def retry(self) -> None:
        """Try again to write what could not be written. Called about once a second: otherwise a worker without requests
        would not notice that the disk has recovered, and would be reported as failing forever."""
        for writer in (self._writer, self._spool_writer):
            if writer is not None:
                writer.retry()

    def close(self) -> None:
        if self._summing is not None:
            self._summing.cancel()
            self._sum_up()
        self.flush()
        if self.spool is not None:
            self.spool.close()
        if self._writer is not None:
            self._writer.close()
