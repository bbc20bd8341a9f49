"""A file to which several processes append whole lines, and which others may move away at any time.

Each writer holds a lock on the file while it writes, and makes sure that the file still has its name. Whoever renames
the file and then takes the lock therefore knows that the file is complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from time import gmtime, sleep, strftime, time
from typing import Final

import msgspec

logger = logging.getLogger("keyfront.edge")

MAX_UNWRITTEN: Final = 256 * 1024
"""Bytes of lines held for the next attempt when a write fails; all others are lost."""
PARTS: Final = 10
"""How many files the space of a rotated log is divided into."""
SMALL: Final = 1 << 20
"""Bytes of a file that is not rotated daily: small logs stay in one file for up to a day after their first record."""
LOCK_WAITS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Seconds between the attempts to lock a file: the loop of a worker stands still meanwhile."""
_DAY: Final = 86_400
_TIME: Final = re.compile(rb'\{"time":(\d{1,12})')


class Retention(msgspec.Struct, frozen=True):
    """How much of a log is kept: the newest `size` bytes, and nothing older than `age` seconds. 0: no limit. If both
    are 0, the file is never rotated."""

    size: int = 0
    age: float = 0.0


DEFAULT_RETENTION: Final = Retention(10 << 30, 30 * 86_400.0)


class AppendFile:
    """:param mode: the permissions of new files.
    :param most: bytes that the file may have; 0: any number.
    :param retention: when the file is rotated: renamed, as `access.jsonl` to `access-20261201T093000Z-1f3.jsonl`.
    """

    def __init__(
        self,
        path: Path,
        mode: int,
        *,
        most: int = 0,
        retention: Retention = Retention(),
        clock: Callable[[], float] = time,
    ) -> None:
        self._path = path
        self._mode = mode
        self._most = most
        self._retention = retention
        self._clock = clock
        self._fd = -1
        self._contended = False
        self._began = 0.0  # the time of the file's first record, epoch seconds

    def append(self, data: bytes) -> bool:
        """Append whole lines: all of them, or nothing. Returns False if the file would become too large.

        :raises OSError: if they cannot be written.
        """
        size = self._lock()
        try:
            if self._is_due(size):
                self._rotate()
                size = self._lock()
            if self._most and size + len(data) > self._most:
                return False
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, size)  # nobody else writes meanwhile
                raise
            if not self._began:
                self._began = self._clock()
            return True
        finally:
            self._unlock()

    def _lock(self) -> int:
        """Lock the file that has the name now, and return its size."""
        while True:
            if self._fd < 0:
                self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, self._mode)
                self._began = 0.0
                if self._retention.age and (found := _TIME.match(os.pread(self._fd, 64, 0))) is not None:
                    self._began = float(found[1])
            self._wait_for_lock()
            try:
                named, opened = os.stat(self._path), os.fstat(self._fd)
            except FileNotFoundError:
                pass
            except OSError:
                self.close()
                raise
            else:
                if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                    return opened.st_size
            self.close()

    def _wait_for_lock(self) -> None:
        """Lock the opened file. A writer holds the lock for some microseconds, unless its process hangs: then only the
        first of the others' attempts waits for it.

        :raises TimeoutError: if another process keeps the lock.
        """
        for wait in () if self._contended else LOCK_WAITS:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                sleep(wait)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._contended = True
            raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked") from None
        self._contended = False

    def _unlock(self) -> None:
        if self._fd >= 0:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:
                self.close()

    def _is_due(self, size: int) -> bool:
        """Whether the file must be rotated before the next write."""
        retention = self._retention
        if retention.size and size >= retention.size // PARTS:
            return True
        if not retention.age or not self._began or not size:
            return False
        now = self._clock()
        if now - self._began >= min(_DAY, retention.age / 2):
            return True
        return size >= SMALL and now // _DAY != self._began // _DAY

    def _rotate(self) -> None:
        """Rename the file, which is locked, and remove files that are too old or too many."""
        name = f"{self._path.stem}-{strftime('%Y%m%dT%H%M%SZ', gmtime(self._clock()))}-{os.urandom(2).hex()}"
        os.rename(self._path, self._path.with_name(name + self._path.suffix))
        self.close()
        remove_old(self._path, self._retention, self._clock())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)  # which unlocks it
            self._fd = -1


def rotated_files(path: Path) -> list[Path]:
    """The files that `path` was renamed to, the oldest first, compressed or not."""
    pattern = re.compile(
        rf"{re.escape(path.stem)}-\d{{8}}T\d{{6}}Z-[0-9a-f]{{4}}{re.escape(path.suffix)}(\.\w+)?"
    )
    with contextlib.suppress(FileNotFoundError):
        return sorted(one for one in path.parent.iterdir() if pattern.fullmatch(one.name))
    return []


def remove_old(path: Path, retention: Retention, now: float) -> None:
    """Remove rotated files beyond what is kept. The file itself and one part of the size are left to it.

    :param now: epoch seconds.
    """
    room = retention.size - retention.size // PARTS
    for one in reversed(rotated_files(path)):
        try:
            status = one.stat()
            room -= status.st_size
            if (retention.size and room < 0) or (retention.age and now - status.st_mtime > retention.age):
                one.unlink()
        except FileNotFoundError:  # another worker did it
            pass
        except OSError as error:
            logger.warning("an old log cannot be removed: %s", error)


class LineWriter:
    """Appends lines to a file, and holds some of them while that fails: requests do not fail with the disk.

    `lost` is the number of lines that could not be written, `failing` the reason why the last write failed, empty if it
    did not.

    :param what: what the lines are, for the log.
    """

    def __init__(self, file: AppendFile, what: str) -> None:
        self.lost = 0
        self.failing = ""
        self._file = file
        self._what = what
        self._unwritten = b""
        self._unwritten_lines = 0

    def write(self, data: bytes, lines: int) -> None:
        """:param lines: the number of lines in `data`."""
        waiting = self._unwritten_lines
        try:
            written = self._file.append(self._unwritten + data)
        except OSError as error:
            self._failed(str(error))
            if self._unwritten or len(data) > MAX_UNWRITTEN:
                self.lost += lines
            else:
                self._unwritten, self._unwritten_lines = data, lines
            return
        self._unwritten, self._unwritten_lines = b"", 0
        if written:
            self.failing = ""
        else:
            self.lost += waiting + lines
            self._failed("the space for it is used up")

    def retry(self) -> None:
        """Try again to write what could not be written."""
        if self.failing:
            self.write(b"", 0)

    def _failed(self, why: str) -> None:
        if not self.failing:
            logger.warning("%s cannot be written: %s", self._what, why)
        self.failing = why

    def close(self) -> None:
        self.lost += self._unwritten_lines
        self._unwritten, self._unwritten_lines = b"", 0
        self._file.close()
