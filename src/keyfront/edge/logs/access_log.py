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
from pathlib import Path

import msgspec

from keyfront.edge.logs.counters import Counts
from keyfront.edge.types.record import HitCounter, Record

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
        self._tallies: dict[tuple[str, tuple[str, str] | None], HitCounter] = {}
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

    def hit_counter(self, distribution: str, key: tuple[str, str] | None) -> HitCounter:
        """What hits of this distribution by this key (id and hash; None: no signature needed) are counted as."""
        name = (distribution, key)
        found = self._tallies.get(name)
        if found is None:
            if len(self._tallies) >= 4096:
                self.flush()
                self._tallies.clear()
            found = self._tallies[name] = HitCounter(distribution, key)
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
