"""The last requests in the access logs of a folder, newest first, by reading the files backwards from their ends.

How much is read does not depend on how much there is: a call reads at most its window, and continues where the one
before stopped. Compressed files cannot be read backwards and are left out; `log_query` reads them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from keyfront.errors import SettingsError
from keyfront.monitoring.log_files import access_logs, is_compressed

WINDOW = 4 << 20
"""Bytes of records that `newest` looks at."""
FIND_WINDOW = 64 << 20
"""Bytes of records among which `find` looks for one."""
DISORDER = 300.0
"""Seconds. A record is written when its response has been sent, so the times in a file are not quite in order."""
_OLD_RECORDS = 500
"""After so many records in a row that are too old, no younger ones are expected."""
_PIECE = 256 * 1024
_PROBE = 32 * 1024
_LONGEST_LINE = 1024 * 1024


class Place(NamedTuple):
    """Where a record begins: the file by its inode, which outlives its renaming, and the offset in bytes."""

    inode: int
    offset: int

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.offset:x}"


def place_of(text: str) -> Place | None:
    """The place that was written with `str`; None if it is none."""
    inode, dash, offset = text.partition("-")
    try:
        return (
            Place(int(inode, 16), int(offset, 16)) if dash and len(text) <= 40 and "_" not in text else None
        )
    except ValueError:
        return None


class _Fields(msgspec.Struct):
    """What filters look at."""

    time: float
    status: int
    client_ip: str = ""
    path: str = ""
    distribution: str = ""
    verdict: str = ""
    reason: str = ""
    key_pair_id: str = ""


_fields = msgspec.json.Decoder(_Fields)


class RequestFilter(msgspec.Struct, frozen=True):
    """Which records are returned: those that fit all members that are not empty.

    :param status: the lowest and the highest status.
    :param verdict: `allowed`, `refused`, or `none` for requests that needed no signature.
    :param path: what the path begins with.
    :param since: epoch seconds; `until` likewise.
    """

    distribution: str = ""
    status: tuple[int, int] | None = None
    verdict: str = ""
    reason: str = ""
    key: str = ""
    path: str = ""
    address: str = ""
    since: float | None = None
    until: float | None = None

    def fits(self, found: _Fields) -> bool:
        """Whether a record fits."""
        return (
            (self.status is None or self.status[0] <= found.status <= self.status[1])
            and (not self.verdict or (found.verdict or "none") == self.verdict)
            and (not self.reason or found.reason == self.reason)
            and (not self.key or found.key_pair_id == self.key)
            and (not self.distribution or found.distribution == self.distribution)
            and (not self.address or found.client_ip == self.address)
            and found.path.startswith(self.path)
            and (self.since is None or found.time >= self.since)
            and (self.until is None or found.time <= self.until)
        )


class Line(NamedTuple):
    """A record as it stands in the log, and where."""

    place: Place
    text: bytes


class Recent(NamedTuple):
    """Records, newest first. `following` is the place to go on from; None if there are no older ones."""

    lines: tuple[Line, ...]
    following: Place | None


def newest(
    folder: Path, wanted: RequestFilter, *, before: Place | None = None, limit: int, window: int = WINDOW
) -> Recent:
    """The newest records that fit, at most `limit`, among the last `window` bytes of records.

    :param before: only records before this place, as returned in `following`.
    :raises SettingsError: if the logs cannot be read.
    """
    found: list[Line] = []
    left, old = window, 0
    for line in _backwards(folder, before, wanted.until):
        left -= len(line.text) + 1
        try:
            fields = _fields.decode(line.text)
        except msgspec.MsgspecError:
            fields = None  # torn
        if fields is not None:
            if wanted.fits(fields):
                found.append(line)
            old = old + 1 if wanted.since is not None and fields.time < wanted.since - DISORDER else 0
        if old >= _OLD_RECORDS:
            break
        if len(found) >= limit or left <= 0:
            return Recent(tuple(found), line.place)
    return Recent(tuple(found), None)


def find(
    folder: Path, request_id: str, *, place: Place | None = None, window: int = FIND_WINDOW
) -> bytes | None:
    """The record of a request among the last `window` bytes of records; None if it is not there.

    :param place: where it was.
    :raises SettingsError: if the logs cannot be read.
    """
    member = b'"request_id":' + msgspec.json.encode(request_id)
    if place is not None:
        for line in _backwards(folder, place, None, at=True):
            if member in line.text:
                return line.text
            break
    for line in _backwards(folder, None, None):
        if member in line.text:
            return line.text
        window -= len(line.text) + 1
        if window <= 0:
            break
    return None


def _backwards(
    folder: Path, before: Place | None, until: float | None, *, at: bool = False
) -> Iterator[Line]:
    """The lines of all files, newest first.

    :param before: where to begin: with the line that ends there, or with the line at this place (`at`).
    :param until: epoch seconds: later records may be left out.
    """
    for path in reversed(access_logs(folder)):
        try:
            if is_compressed(path):
                continue
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                end = status.st_size
                if before is not None:
                    if status.st_ino != before.inode:
                        continue
                    end, before = min(end, before.offset), None
                    if at:
                        file.seek(end)
                        end += len(file.readline(_LONGEST_LINE))
                if until is not None:
                    end = _end_of(file, end, until + DISORDER)
                for offset, text in _lines_before(file, end):
                    yield Line(Place(status.st_ino, offset), text)
        except FileNotFoundError:
            continue  # removed since
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from None


def _lines_before(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """The finished lines before an offset, the last first, each with its offset."""
    rest, position, first = b"", end, True
    while position > 0:
        start = max(0, position - _PIECE)
        file.seek(start)
        data = file.read(position - start)
        if len(data) < position - start:
            return  # emptied in place
        data += rest
        rest, *lines = data.split(b"\n")
        line_end = start + len(data)
        for line in reversed(lines):
            begin = line_end - len(line)
            if not first:
                yield begin, line
            first = False  # what follows the last line break is not finished
            line_end = begin - 1
        position = start
        if len(rest) > _LONGEST_LINE:
            rest = b""
    if rest and not first:
        yield 0, rest


def _end_of(file: BinaryIO, end: int, moment: float) -> int:
    """The end of a line at or before `end` after which all records are later than `moment`, found by bisection."""
    low, high = 0, end
    while high - low > _PIECE:
        middle = (low + high) // 2
        found = _time_near(file, middle)
        if found is not None and found > moment:
            high = middle
        else:
            low = middle
    if high == end:
        return end
    file.seek(high)
    return high + len(file.readline(_LONGEST_LINE))


def _time_near(file: BinaryIO, offset: int) -> float | None:
    """The median time of the records after an offset, because a single one can be out of order."""
    file.seek(offset)
    times = []
    for line in file.read(_PROBE).split(b"\n")[1:-1]:
        try:
            times.append(_fields.decode(line).time)
        except msgspec.MsgspecError:
            continue
    return statistics.median(times) if times else None
