"""The disk tier: responses that all workers of a machine store in one folder, without an index.

    FOLDER/<2 hex>/<SHA-256 of the key>    one entry: a prefix, a head, a body
    FOLDER/new/                            entries that are still being written
    FOLDER/used, FOLDER/evict              the bytes used; the lock of the worker that evicts
    FOLDER/format                          the format of the entries, once no entry of another one is left

An entry is written to `new` and renamed when it is complete, so a reader sees the old one, the new one, or none. A
reader trusts an entry only if it verifies: the prefix holds a magic number, the sizes of head and body, which must
match the file's, and checksums of both; the head repeats the key. A killed worker leaves at worst a file in `new`. A
worker that finds a torn or foreign file removes it.

A body's checksum is verified when the body is read into memory. A body that the kernel sends without reading it here
is trusted because the kernel that wrote it is still running: whatever a process wrote is complete to the kernel, even
if the process was killed. After a power cut this does not hold. Each file therefore carries a mark of the boot during
which it was written or last verified, stored as the nanoseconds of its modification time. A file with another mark is
read and verified once. (The time itself proves nothing: after a power cut the clock may be wrong.)

Entries of another format (`disk_format.FORMAT`) are removed at startup, and where one is found later because another
version of Keyfront uses the folder too. `outdated` counts them.

All writes happen in one thread, in order. Heads are read where they are needed (about 30 µs). A disk failure never
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
from keyfront.edge.cache.disk_format import (
    FOREIGN,
    FORMAT,
    LONGEST_WHOLE,
    PREFIX,
    Entry,
    OtherFormat,
    has_other_format,
    name_of,
    read_entry,
    sealed,
)
from keyfront.edge.cache.entry import Head, encode_head, head_of, stored_of
from keyfront.edge.cache.slice_writer import SliceWriter
from keyfront.edge.rules.cache_key import change_marker, path_of, variant_key
from keyfront.edge.rules.vary import variant_values
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Stored

logger = logging.getLogger("keyfront.edge")

TOUCHED: Final = 60.0
"""Seconds within which further uses of an entry are not recorded."""
BACKLOG: Final = 32 * 1024 * 1024
"""Maximum backlog of writes in bytes; above this, nothing else is stored."""
PAUSE: Final = 10.0
"""How long, in seconds, writes pause after a disk failure."""
SILENT: Final = 600.0
"""Minimum time, in seconds, between two warnings about a disk that fails intermittently."""
LEFT_OVER: Final = 600.0
"""Age, in seconds, at which a file in `new` counts as left behind by a killed worker."""


_SECOND: Final = 10**9


def boot_mark() -> int:
    """A number that identifies this boot of the machine, in nanoseconds and less than one second. If the kernel has no
    boot ID, it identifies this process instead."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            text = file.read()
    except OSError:
        text = os.urandom(16)
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % _SECOND


class DiskTier:
    """Responses in `folder`, at most `capacity` bytes of them.

    Belongs to one worker and, apart from its own thread, to one event loop.

    :param ended: returns whether an invalidation has ended a response, given its key, the number of the snapshot under
        which it was requested, and its cache tags.
    :param slack: fraction of the capacity that is freed at once when the capacity is exceeded.
    :param clock: the edge's clock (epoch seconds), which dates responses. Files are dated by the machine's clock.
    :param largest: bytes of the largest body that is held whole; a larger one on disk was not written by this edge.
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
        self.outdated = 0
        """Entries of another format that this worker has removed."""
        self.used = 0
        """Bytes in the folder, as last known for all workers together."""
        self._ended = ended
        self._clock = clock
        self._root = f"{os.fspath(folder)}/"
        self._mark = boot_mark()
        self._queue: SimpleQueue[tuple[int, Callable[[], None]] | None] = SimpleQueue()
        self._submitted = 0
        self._worked = 0
        self._thread: threading.Thread | None = None
        self._evictor: threading.Thread | None = None
        self._evictor_lock = threading.Lock()
        self._closed = False
        self._paused_until = 0.0
        self._warned = False
        self._silent_until = 0.0
        self._out_of_space = False
        self._delta = 0
        self._step = min(max(capacity // 512, BLOCK), 16 << 20)
        self._numbers = itertools.count()
        self._unique = f"{os.getpid()}-{os.urandom(6).hex()}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def find(self, key: str, forwarded: Callable[[], Headers]) -> Stored | None:
        """The response for `key`; see `MemoryTier.find`. Its body is read too, unless it is stored in slices."""
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
            or entry.head.requested_at <= self._changed_at(key)
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
        """A slice of `length` bytes. Also None if it was last verified before this machine started: call
        `verified_slice` then."""
        entry = self._slice(key, length)
        if entry is None or not self._is_verified(entry):
            return None
        return FileRange(entry.file, entry.offset, entry.length)

    async def verified_slice(self, key: str, length: int) -> FileRange | None:
        """Like `slice`, but a body written before this machine started is first read and verified."""
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
        """Whether a file exists for `key`. It may still turn out to be invalid."""
        return os.path.exists(self._root + name_of(key))

    def _entry(self, key: str, *, touch: bool = True) -> Entry | None:
        name = name_of(key)
        try:
            # Nonblocking, in case something else is there: opening a pipe must not block.
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
        except OtherFormat:
            self.outdated += 1
            entry = None
        except OSError as error:
            self._failed("read", error)
            return None
        if entry is None:
            self._remove(name)
        elif touch:
            self._touch(entry)
        return entry

    def _is_verified(self, entry: Entry) -> bool:
        """Whether it was written or verified since the machine started."""
        return entry.mtime_ns % _SECOND == self._mark

    def mark_verified(self, fd: int) -> None:
        """Record that the file is verified and was used just now."""
        now = int(time.time()) * _SECOND + self._mark
        with suppress(OSError):
            os.utime(fd, ns=(now, now))

    def _touch(self, entry: Entry) -> None:
        """Record the use of the entry, for eviction. An entry that is not verified yet keeps its timestamp."""
        if self._is_verified(entry) and abs(time.time() - entry.mtime_ns / _SECOND) > TOUCHED:
            self.mark_verified(entry.file.fd)

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def failing(self) -> bool:
        """Whether the disk has failed within the last `PAUSE` seconds."""
        return time.monotonic() < self._paused_until

    @property
    def ready(self) -> bool:
        """Whether writes are accepted now."""
        if self._closed or self._submitted - self._worked >= BACKLOG:
            return False
        now = time.monotonic()
        if now < self._paused_until:
            return False
        if self._has_room:
            return True
        # Eviction lags behind. Check again in one second whether there is room.
        self._paused_until = now + 1
        self.submit(0, lambda: self.account(0, flush=True))
        return False

    @property
    def _has_room(self) -> bool:
        return self.used + self._delta <= self.capacity + 4 * self._step

    def put(self, stored: Stored, requested_at: float) -> None:
        """Store a response in place of the one that it supersedes: soon, or not at all. In the latter case, the old
        one is removed anyway, so that nothing older reappears after memory has evicted this response.

        :param requested_at: when the request went to the origin, epoch seconds.
        """
        if self.ready:
            self.submit(len(stored.body) + 1024, lambda: self._put(stored, requested_at))
        elif not self._closed:
            self._remove(name_of(stored.key))

    def drop(self, key: str) -> None:
        """Remove the response for `key` with all its variants, including writes that are still pending."""
        if not self._closed:
            self._remove(name_of(key))
            self.submit(0, lambda: self._remove(name_of(key)))

    def mark_changed(self, path: str, now: float) -> None:
        """Invalidate responses whose requests went to the origin by `now` (epoch seconds) and whose keys begin with
        this path.

        Entries cannot be found by path, so a marker is stored, and every response with this path is checked against
        it. The marker is used whenever those responses are, so eviction removes them first.
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
        """When a request last changed the responses under this key's path (epoch seconds); 0 if no change is known."""
        path = path_of(key)
        entry = self._entry(change_marker(path))
        if entry is None:
            return 0.0
        now = self._clock()
        if entry.head.requested_at > now + 1:
            # The clock was set back: make responses fetched from now on usable again.
            self.mark_changed(path, now)
        return entry.head.requested_at

    def writer(self, key: str, length: int | None) -> SliceWriter | None:
        """A writer for a slice of `length` bytes (None: not known until its end). None if the disk cannot accept it
        now."""
        return SliceWriter(self, key, length) if self.ready else None

    def close(self) -> None:
        """Finish pending writes and stop. Blocks until that is done."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        with self._evictor_lock:
            evictor = self._evictor
        if evictor is not None:
            evictor.join()

    def submit(self, size: int, work: Callable[[], None]) -> None:
        self._submitted += size
        self._queue.put((size, work))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="keyfront-disk", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread available: pending work is done by the next one
                self._paused_until = time.monotonic() + PAUSE
                self._warn(f"cannot be written, so nothing new is stored there: {error}")
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

    def _put(self, stored: Stored, requested_at: float) -> None:
        key, meta = stored.key, stored.meta
        if self._ended(key, meta.snapshot, meta.tags):
            return
        if not self._has_room:
            self._remove(name_of(key))
            return
        if meta.vary:
            key = variant_key(key, self._signpost(key, meta.vary), meta.vary_values)
        head = head_of(stored, key, requested_at)
        if head is None:
            return
        try:
            self.account(self._write(head, stored.body))
        except OSError:
            self._remove(name_of(key))
            raise

    def _signpost(self, key: str, names: tuple[bytes, ...]) -> str:
        """The generation of the signpost to the variants of `key`. Creates the signpost if there is none for these
        names."""
        entry = self._entry(key)
        if entry is not None and entry.head.names == names:
            return entry.head.generation
        generation = os.urandom(8).hex()
        self.account(self._write(Head(key, names=names, generation=generation), b""))
        return generation

    def _write(self, head: Head, body: bytes) -> int:
        """Write an entry. Returns how many more bytes it takes than the one that it replaces."""
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
        """A path in the folder. Creates the folder if it does not exist."""
        if not os.path.isdir(self._root):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def place(self, temporary: str, name: str, size: int) -> int:
        """Move a complete entry to its final name. Returns how many more bytes it takes than the one that it
        replaces."""
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
        """Handle a disk failure: nothing is written for a while. One warning is logged until a write succeeds again,
        and no more than one every `SILENT` seconds. If the disk is full although this tier is below its capacity, the
        tier frees part of what it holds: whatever fills the disk needs the space more, and entries that are no longer
        requested would otherwise stay."""
        now = time.monotonic()
        self._paused_until = now + PAUSE
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._out_of_space = True
            self._evict_beside()
        self._warn(f"cannot be {what}, so nothing new is stored there: {error}")

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        if not self._warned and now >= self._silent_until:
            self._warned = True
            self._silent_until = now + SILENT
            logger.warning("the cache on disk %s", text)

    # -- accounting and eviction -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Scan the folder in a separate thread: for what it holds, and for what killed workers left behind."""
        self._evict_beside()

    def account(self, delta: int, *, flush: bool = False) -> None:
        """Add to the bytes used. The sum of all workers is in a file, which each worker updates once its own change is
        large enough or with `flush`."""
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
        # The lock is held until the thread is known: if the disk fails at once, the thread itself comes back here, and
        # must not start another one.
        with self._evictor_lock:
            if self._closed or (self._evictor is not None and self._evictor.is_alive()):
                return
            evictor = threading.Thread(target=self._evict, name="keyfront-evict", daemon=True)
            try:
                evictor.start()
            except RuntimeError as error:  # no thread available: the next eviction tries again
                self._warn(f"cannot be searched, so nothing new is stored there: {error}")
            else:
                self._evictor = evictor

    def _evict(self) -> None:
        """Remove the least recently used entries until there is room. One worker evicts at a time; the others
        continue.

        Two passes: the first adds up bytes by the minute of last use, the second removes everything older than the
        minute found. Memory use therefore does not grow with the number of entries.
        """
        try:
            self._evict_alone()
        except BlockingIOError:
            pass  # another worker is already evicting
        except _Ends:
            pass
        except OSError as error:
            self._failed("searched", error)
        except Exception:
            logger.exception("the eviction of the cache on disk failed by a fault of its own")
            self._paused_until = time.monotonic() + PAUSE

    def _evict_alone(self) -> None:
        with locked(self._made(f"{self._root}evict"), wait=False):
            self._clear_left_overs()
            self._clear_other_formats()
            by_minute: dict[int, int] = {}
            total = 0
            latest = int((time.time() + TOUCHED) // 60)
            for _, status in self._walk():
                size = blocks(status.st_size)
                minute = _minute(status, latest)
                by_minute[minute] = by_minute.get(minute, 0) + size
                total += size
            if total > self.capacity or self._out_of_space:
                self._out_of_space = False
                excess = total - int(min(self.capacity, total) * (1 - self.slack))
                total -= self._evict_from(by_minute, excess, latest)
            self.used = total
            with locked(f"{self._root}used", wait=True) as fd:
                os.pwrite(fd, b"%20d" % total, 0)

    def _evict_from(self, by_minute: dict[int, int], excess: int, latest: int) -> int:
        """Remove the oldest entries, `excess` bytes of them or slightly more. Returns the number of bytes removed.

        The folder may have changed since `by_minute` was computed, and may have been empty then: other workers remove
        entries too, and a full disk may hold none of ours.
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
                    except OSError:  # gone in the meantime, or unreadable: the others count
                        continue
                    yield entry.path, status

    def _clear_left_overs(self) -> None:
        now = time.time()
        with suppress(FileNotFoundError), os.scandir(f"{self._root}new") as entries:
            for entry in entries:
                with suppress(OSError):
                    if abs(now - entry.stat(follow_symlinks=False).st_mtime) > LEFT_OVER:
                        os.unlink(entry.path)

    def _clear_other_formats(self) -> None:
        """Remove the entries of another version of Keyfront, unless this was done before."""
        path, current = f"{self._root}format", b"%d\n" % FORMAT
        with suppress(FileNotFoundError), open(path, "rb") as file:
            if file.read() == current:
                return
        removed = 0
        for entry, _ in self._walk():
            with suppress(OSError):
                if has_other_format(_start_of(entry)):
                    os.unlink(entry)
                    removed += 1
        self.outdated += removed
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, [current])
        finally:
            os.close(fd)
        if removed:
            logger.info(
                "the cache on disk has a new format: the entries of another version are removed",
                extra={"entries": removed},
            )


def _start_of(path: str) -> bytes:
    """The first bytes of an entry, as many as its prefix has.

    :raises OSError: if it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.pread(fd, PREFIX.size, 0)
    finally:
        os.close(fd)


class _Ends(Exception):
    """The worker is stopping in the middle of a walk."""


def _minute(status: os.stat_result, latest: int) -> int:
    """The minute in which a file was last used. A time in the future was recorded before the clock was set back. The
    real time of use is unknown, so such a file is evicted first."""
    minute = int(status.st_mtime // 60)
    return minute if minute <= latest else 0
