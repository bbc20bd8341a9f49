"""The disk tier: the responses that all workers of a machine store in one folder, without an index.

    FOLDER/<2 hex>/<SHA-256 of the key>    one entry: a prefix, a head, a body
    FOLDER/new/                            entries that are still being written
    FOLDER/used, FOLDER/evict              the bytes used; the lock of the worker that evicts

An entry is written to `new` and renamed when it is complete, so a reader sees the old one, the new one, or none. A
reader trusts an entry only if it verifies: the prefix holds a magic number, the sizes of head and body, which must
match the file's, and checksums of both; the head repeats the key. A killed worker leaves at worst a file in `new`; the
worker that finds a torn or foreign file removes it.

A body's checksum is verified when the body is read into memory. A body that the kernel sends without reading it here
is trusted because the kernel that wrote it is still running: whatever a process wrote is complete to the kernel, even
if the process was killed. After a power cut this does not hold. So each file carries a mark of the boot during which it
was written or last verified, as the nanoseconds of its modification time; a file with another mark is read and verified
once. (The time itself proves nothing: after a power cut the clock may be wrong.)

All writes happen in one thread, in order; heads are read where they are needed (about 30 µs). A disk failure never
fails a request: what cannot be read counts as missing, what cannot be written is not stored, and one warning reports
it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Final
from zlib import crc32

from keyfront.edge.cache.disk_files import BLOCK, blocks, locked, size_of, sum_in, write_all
from keyfront.edge.cache.disk_format import FOREIGN, LONGEST_WHOLE, Entry, name_of, read_entry, sealed
from keyfront.edge.cache.entry import Head, encode_head, head_of, stored_of
from keyfront.edge.cache.slice_writer import SliceWriter
from keyfront.edge.rules.cache_key import change_marker, path_of, variant_key
from keyfront.edge.rules.vary import variant_values
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Stored

logger = logging.getLogger("keyfront.edge")

TOUCHED: Final = 60.0
"""Seconds within which another use of an entry is not recorded."""
BACKLOG: Final = 32 * 1024 * 1024
"""Bytes that may wait to be written; above this, nothing else is stored."""
REST: Final = 10.0
"""Seconds for which nothing is written after a disk failure."""
SILENT: Final = 600.0
"""Seconds between two warnings about a disk that fails intermittently."""
LEFT_OVER: Final = 600.0
"""Seconds after which a file in `new` counts as left by a killed worker."""


_SECOND: Final = 10**9


def boot_mark() -> int:
    """A number that identifies this boot of the machine: nanoseconds, less than a second. If the kernel has no boot id,
    it identifies this process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            text = file.read()
    except OSError:
        text = os.urandom(16)
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % _SECOND


class DiskTier:
    """Responses in `folder`, at most `capacity` bytes of them.

    Belongs to one worker and, but for its own thread, to one event loop. `ended` says whether an invalidation has
    ended what is stored under a key, was asked for under a snapshot's number and carries these cache tags. `clock` is
    the edge's (epoch seconds), by which responses are dated; files are by the machine's.

    :param slack: the part of the capacity that is freed at once when there is too much.
    :param largest: bytes of the largest body that is held whole; a larger one on disk is not one of this edge's.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        capacity: int,
        ended: Callable[[str, int, tuple[str, ...]], bool],
        slack: float = 0.1,
        clock: Callable[[], float] = time.time,
        largest: int = LONGEST_WHOLE,
    ) -> None:
        self.folder = Path(folder)
        self.largest = largest
        self.capacity = capacity
        self.slack = slack
        self.evictions = 0
        self.used = 0
        """Bytes in the folder, by what was last known of all workers."""
        self._ended = ended
        self._clock = clock
        self._root = f"{os.fspath(folder)}/"
        self._mark = boot_mark()
        self._queue: SimpleQueue[tuple[int, Callable[[], None]] | None] = SimpleQueue()
        self._submitted = 0
        self._worked = 0
        self._thread: threading.Thread | None = None
        self._evictor: threading.Thread | None = None
        self._closed = False
        self._resting_until = 0.0
        self._warned = False
        self._silent_until = 0.0
        self._squeezed = False
        self._delta = 0
        self._step = min(max(capacity // 512, BLOCK), 16 << 20)
        self._numbers = itertools.count()
        self._unique = f"{os.getpid()}-{os.urandom(6).hex()}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def find(self, key: str, forwarded: Callable[[], Headers]) -> Stored | None:
        """The response for `key`; see `MemoryTier.find`. Its body is read, unless it lies in slices."""
        entry = self._entry(key)
        if entry is None:
            return None
        if entry.head.names:
            head = entry.head
            values = variant_values(head.names, forwarded())
            entry = self._entry(variant_key(key, head.generation, values))
            if entry is None or entry.head.meta is None or entry.head.meta.vary != head.names:
                return None
        row = entry.head.meta
        if (
            row is None
            or self._ended(key, row.snapshot, row.tags)
            or entry.head.asked <= self._changed_at(key)
        ):
            return None
        if row.vary and variant_values(row.vary, forwarded()) != row.vary_values:
            return None
        if entry.head.slices is not None:
            return stored_of(key, entry.head, b"")
        try:
            body = entry.body()
        except OSError as error:
            self._failed("read", error)
            return None
        if body is None:
            self._remove(name_of(entry.head.key))
            return None
        if not self._is_verified(entry):
            self.mark_verified(entry.file.fd)
        return stored_of(key, entry.head, body)

    def slice(self, key: str, length: int) -> FileRange | None:
        """A slice of `length` bytes. None too if it was last read before this machine started: ask `verified_slice`."""
        entry = self._slice(key, length)
        if entry is None or not self._is_verified(entry):
            return None
        return FileRange(entry.file, entry.offset, entry.length)

    async def verified_slice(self, key: str, length: int) -> FileRange | None:
        """The same, its body read through where the kernel that wrote it is not the one that runs."""
        entry = self._slice(key, length)
        if entry is None:
            return None
        if not self._is_verified(entry):
            try:
                if not await asyncio.get_running_loop().run_in_executor(None, entry.holds):
                    self._remove(name_of(key))
                    return None
                self.mark_verified(entry.file.fd)
            except OSError as error:
                self._failed("read", error)
                return None
        return FileRange(entry.file, entry.offset, entry.length)

    def _slice(self, key: str, length: int) -> Entry | None:
        entry = self._entry(key, touch=False)
        if entry is None or entry.head.meta is not None or entry.head.names or entry.length != length:
            return None
        self._touch(entry)
        return entry

    def has(self, key: str) -> bool:
        """Is there a file for `key`? It may still turn out to be invalid."""
        return os.path.exists(self._root + name_of(key))

    def _entry(self, key: str, *, touch: bool = True) -> Entry | None:
        name = name_of(key)
        try:
            # Whatever lies there: a pipe must not be waited for.
            fd = os.open(self._root + name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in FOREIGN:
                self._remove(name)
            else:
                self._failed("read", error)
            return None
        try:
            entry = read_entry(fd, key, self.largest)
        except OSError as error:
            self._failed("read", error)
            return None
        if entry is None:
            self._remove(name)
        elif touch:
            self._touch(entry)
        return entry

    def _is_verified(self, entry: Entry) -> bool:
        """Was it written or verified since the machine started?"""
        return entry.mtime_ns % _SECOND == self._mark

    def mark_verified(self, fd: int) -> None:
        """Record that the file is verified, and was used now."""
        now = int(time.time()) * _SECOND + self._mark
        with suppress(OSError):
            os.utime(fd, ns=(now, now))

    def _touch(self, entry: Entry) -> None:
        """Record the use of the entry, for eviction. An entry that is not verified yet keeps its age."""
        if self._is_verified(entry) and abs(time.time() - entry.mtime_ns / _SECOND) > TOUCHED:
            self.mark_verified(entry.file.fd)

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def failing(self) -> bool:
        """Has the disk failed within the last `REST` seconds?"""
        return time.monotonic() < self._resting_until

    @property
    def ready(self) -> bool:
        """May something be written now?"""
        if self._closed or self._submitted - self._worked >= BACKLOG:
            return False
        now = time.monotonic()
        if now < self._resting_until:
            return False
        if self._has_room:
            return True
        # Eviction lags behind. Check in a second whether there is room again.
        self._resting_until = now + 1
        self.submit(0, lambda: self.account(0, flush=True))
        return False

    @property
    def _has_room(self) -> bool:
        return self.used + self._delta <= self.capacity + 4 * self._step

    def put(self, stored: Stored, asked: float) -> None:
        """Store a response in place of the one that it supersedes, soon or not at all. If not, the old one is removed
        all the same, so that nothing older comes back after memory has evicted this."""
        if self.ready:
            self.submit(len(stored.body) + 1024, lambda: self._put(stored, asked))
        elif not self._closed:
            self._remove(name_of(stored.key))

    def drop(self, key: str) -> None:
        """Remove the response for `key`, all its variants included, and whatever of it still waits to be written."""
        if not self._closed:
            self._remove(name_of(key))
            self.submit(0, lambda: self._remove(name_of(key)))

    def mark_changed(self, path: str, now: float) -> None:
        """Invalidate what the origin was asked for until `now` (epoch seconds) under keys that begin with this path.

        Entries cannot be found by a path, so a marker is stored that every response with this path is checked against.
        It is used whenever they are, so eviction takes them first.
        """
        if self._closed:
            return
        try:
            delta = self._write(Head(change_marker(path), now), b"")
            self.submit(0, lambda: self.account(delta))  # which may have to wait for another worker
        except OSError as error:
            self._failed("written", error)
            self.drop(path)

    def _changed_at(self, key: str) -> float:
        """When a request last changed what is under this key's path (epoch seconds), 0 if never as far as is known."""
        path = path_of(key)
        entry = self._entry(change_marker(path))
        if entry is None:
            return 0.0
        now = self._clock()
        if entry.head.asked > now + 1:
            # The clock was set back: make what is fetched from now on usable again.
            self.mark_changed(path, now)
        return entry.head.asked

    def writer(self, key: str, length: int | None) -> SliceWriter | None:
        """A writer for a slice of `length` bytes (None: known at its end). None if the disk cannot take it now."""
        return SliceWriter(self, key, length) if self.ready else None

    def close(self) -> None:
        """Write what waits to be written, and stop. Blocks until that is done."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        if self._evictor is not None:
            self._evictor.join()

    def submit(self, size: int, work: Callable[[], None]) -> None:
        self._submitted += size
        self._queue.put((size, work))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="keyfront-disk", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left: what waits is done by the next one
                self._resting_until = time.monotonic() + REST
                self._warn(f"cannot be written, so what is new is not kept there: {error}")
                return
            self._thread = thread

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            size, work = item
            try:
                work()
            except OSError as error:
                self._failed("written", error)
            except Exception:
                logger.exception("the disk tier's thread goes on after a fault of its own")
            self._worked += size
            del item, work
        self.account(0, flush=True)

    def _put(self, stored: Stored, asked: float) -> None:
        key, meta = stored.key, stored.meta
        if self._ended(key, meta.snapshot, meta.tags):
            return
        if not self._has_room:
            self._remove(name_of(key))
            return
        if meta.vary:
            key = variant_key(key, self._signpost(key, meta.vary), meta.vary_values)
        head = head_of(stored, key, asked)
        if head is None:
            return
        try:
            self.account(self._write(head, stored.body))
        except OSError:
            self._remove(name_of(key))
            raise

    def _signpost(self, key: str, names: tuple[bytes, ...]) -> str:
        """The generation of the signpost to the variants of `key`, which is put up if there is none such."""
        entry = self._entry(key)
        if entry is not None and entry.head.names == names:
            return entry.head.generation
        generation = os.urandom(8).hex()
        self.account(self._write(Head(key, names=names, generation=generation), b""))
        return generation

    def _write(self, head: Head, body: bytes) -> int:
        """Write an entry. Returns what it takes more than the one that it replaces."""
        temporary, fd = self.new_file()
        try:
            try:
                data = sealed(encode_head(head), len(body), crc32(body))
                write_all(fd, [data, body])
                self.mark_verified(fd)
            finally:
                os.close(fd)
            return self.place(temporary, name_of(head.key), len(data) + len(body))
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def new_file(self) -> tuple[str, int]:
        """A new file in `new`, open for writing and reading."""
        path = f"{self._root}new/{self._unique}-{next(self._numbers)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return path, os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self._made(f"{self._root}new"), mode=0o700, exist_ok=True)
            return path, os.open(path, flags, 0o600)

    def _made(self, path: str) -> str:
        """A path in the folder, which there is now."""
        if not os.path.isdir(self._root):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def place(self, temporary: str, name: str, size: int) -> int:
        """Give a whole entry its name. Returns what it takes more than the one that had it."""
        path = self._root + name
        replaced = size_of(path)
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(temporary, path)
        self._warned = False
        return blocks(size) - replaced

    def _remove(self, name: str) -> None:
        path = self._root + name
        size = size_of(path)
        with suppress(OSError):
            os.unlink(path)
            self._delta -= size

    def _failed(self, what: str, error: OSError) -> None:
        """The disk failed: nothing is written for a while. One warning until something is written again, and not many
        after another. Where it is full before this tier is, the tier gives back a part of what it holds: who fills the
        disk needs it more, and otherwise what nobody asks for any more would stay."""
        now = time.monotonic()
        self._resting_until = now + REST
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._squeezed = True
            self._evict_beside()
        self._warn(f"cannot be {what}, so what is new is not kept there: {error}")

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        if not self._warned and now >= self._silent_until:
            self._warned = True
            self._silent_until = now + SILENT
            logger.warning("the cache on disk %s", text)

    # -- how much there is, and eviction -----------------------------------------------------------------------------

    def start(self) -> None:
        """Look through the folder in a thread of its own: what it holds, and what killed workers left."""
        self._evict_beside()

    def account(self, delta: int, *, flush: bool = False) -> None:
        """Add to the bytes used. All workers' sum is in a file, to which each adds when it has something to tell."""
        self._delta += delta
        if abs(self._delta) < self._step and not flush:
            return
        try:
            with locked(self._made(f"{self._root}used"), wait=True) as fd:
                self.used = max(0, sum_in(fd) + self._delta)
                os.pwrite(fd, b"%20d" % self.used, 0)
            self._delta = 0
        except OSError as error:
            self._failed("counted", error)
        if self.used > self.capacity:
            self._evict_beside()

    def _evict_beside(self) -> None:
        if self._closed or (self._evictor is not None and self._evictor.is_alive()):
            return
        evictor = threading.Thread(target=self._evict, name="keyfront-evict", daemon=True)
        try:
            evictor.start()
        except (
            RuntimeError
        ) as error:  # the system has no thread left: the next one who needs room tries again
            self._warn(f"cannot be searched, so what is new is not kept there: {error}")
            return
        self._evictor = evictor

    def _evict(self) -> None:
        """Take away what has not been used for longest, until there is room. One worker at a time; the others go on.

        Two walks: the first adds up the bytes by the minute of their last use, the second removes what is older than
        the minute that this leads to. So the memory that it takes does not grow with the number of entries.
        """
        try:
            self._evict_alone()
        except BlockingIOError:
            pass  # another worker is at it
        except _Ends:
            pass
        except OSError as error:
            self._failed("searched", error)
        except Exception:
            logger.exception("the eviction of the cache on disk failed by a fault of its own")
            self._resting_until = time.monotonic() + REST

    def _evict_alone(self) -> None:
        with locked(self._made(f"{self._root}evict"), wait=False):
            self._clear_left_overs()
            by_minute: dict[int, int] = {}
            total = 0
            latest = int((time.time() + TOUCHED) // 60)
            for _, status in self._walk():
                size = blocks(status.st_size)
                minute = _minute(status, latest)
                by_minute[minute] = by_minute.get(minute, 0) + size
                total += size
            if total > self.capacity or self._squeezed:
                self._squeezed = False
                excess = total - int(min(self.capacity, total) * (1 - self.slack))
                total -= self._evict_from(by_minute, excess, latest)
            self.used = total
            with locked(f"{self._root}used", wait=True) as fd:
                os.pwrite(fd, b"%20d" % total, 0)

    def _evict_from(self, by_minute: dict[int, int], excess: int, latest: int) -> int:
        """Remove the oldest entries, `excess` bytes of them or a little more. Returns how many it were.

        The folder may have changed since `by_minute` was added up, and may have been empty then: others remove entries
        too, and a full disk may hold none of ours.
        """
        if excess <= 0 or not by_minute:
            return 0
        older = 0
        last = 0
        for minute in sorted(by_minute):
            last = minute
            if older + by_minute[minute] >= excess:
                break
            older += by_minute[minute]
        removed = 0
        in_last = excess - older
        for path, status in self._walk():
            minute = _minute(status, latest)
            if minute > last or (minute == last and in_last <= 0):
                continue
            size = blocks(status.st_size)
            with suppress(OSError):
                os.unlink(path)
                removed += size
                self.evictions += 1
                if minute == last:
                    in_last -= size
        return removed

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        for number in range(256):
            if self._closed:
                raise _Ends
            try:
                found = os.scandir(f"{self._root}{number:02x}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            with found as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:  # gone meanwhile, or one that cannot be read: the others count
                        continue
                    yield entry.path, status

    def _clear_left_overs(self) -> None:
        now = time.time()
        with suppress(FileNotFoundError), os.scandir(f"{self._root}new") as entries:
            for entry in entries:
                with suppress(OSError):
                    if abs(now - entry.stat(follow_symlinks=False).st_mtime) > LEFT_OVER:
                        os.unlink(entry.path)


class _Ends(Exception):
    """The worker ends in the middle of a walk."""


def _minute(status: os.stat_result, latest: int) -> int:
    """The minute in which a file was last used. One that is to come was noted before the clock was set back: nobody
    knows when, so it goes first."""
    minute = int(status.st_mtime // 60)
    return minute if minute <= latest else 0
