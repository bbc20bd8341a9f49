"""The shared-memory segment of the workers: created by their parent process and inherited as a file descriptor.

    header          magic mark, layout, sizes, a secret for hashing, and the change word
    states          for each worker: how far its ring and its log are written
    floors          for each bucket of paths and each worker: when it last removed one of them
    rings           for each worker: the removals that the others must apply to their own memory (`removals`)
    index           for each bucket of keys and each worker: where its responses are (`shared_arena`)
    logs            for each worker: its responses in sequence, the oldest overwritten first

Every word and every byte after the header has exactly one writer: the worker whose number it belongs to. No locks are
needed, a worker that is stopped or killed during a write blocks no other process, and the process that replaces a dead
worker continues where that one stopped. Readers do not trust what they read: they check numbers against their limits
and records against their checksums, and they discard a record that was overwritten while they copied it.

Words are 8 bytes, aligned. On 64-bit machines, CPython copies such a word with one instruction, so no reader sees a
torn word. Writers write the data first and then the words that announce it. x86-64 preserves that order. On ARM, the
announcement may become visible first. The checksum then fails, and the reader treats the data as missing or, for
removals, drops everything that it has cached. A request that begins after an answer was sent sees everything written
before that answer, because sending and receiving synchronize.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import Final
from zlib import crc32

from keyfront.errors import SettingsError

RING: Final = 256 * 1024
"""Size of each worker's ring of removals, in bytes."""
FLOORS: Final = 16_384
"""Number of path buckets. Two paths in the same bucket share their removals, which costs a miss but never produces a
wrong answer."""
WAYS: Final = 8
"""Index entries per worker in one bucket."""
PER_ENTRY: Final = 512
"""Bytes of log per index entry."""

_MARK: Final = b"KFshare1"
_HEADER: Final = struct.Struct("<8sIIQQ16sI")
"""The magic mark; the layout's fingerprint; number of workers; bytes of each log; buckets of the index; the secret; a
checksum."""
_FINGERPRINT: Final = crc32(repr((RING, FLOORS, WAYS, 2)).encode())
_CHANGE_WORD: Final = 64 // 8
_STATES: Final = 4096
_STATE: Final = 64  # a cache line for each worker
_PAGE: Final = 4096


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Segment:
    """One worker's view of the mapped segment. `words` holds its 8-byte words, `data` its bytes.

    :param number: this worker's number, from 0 to `workers` - 1.
    :param log: bytes of each worker's log. With 0, there are no logs and no index, only removals.
    """

    def __init__(self, data: mmap.mmap, number: int, workers: int, log: int, secret: bytes) -> None:
        self.data = data
        self.number = number
        self.workers = workers
        self.log = log
        self.buckets = _buckets(log)
        self.words = memoryview(data).cast("Q")
        self.change = self.words[_CHANGE_WORD : _CHANGE_WORD + 1]
        """One word. After each removal, its value differs from every earlier value."""
        self._secret = secret
        self.name = hashlib.blake2b(secret, digest_size=8).hexdigest()
        """A name shared by all workers on this segment and by no others."""
        self.floors = _STATES + _pages(workers * _STATE)
        self.rings = self.floors + _pages(FLOORS * workers * 8)
        self.index = self.rings + workers * RING
        self.logs = self.index + _pages(self.buckets * workers * WAYS * 16)

    @classmethod
    def private(cls) -> Segment:
        """A segment for a single worker. It shares nothing, so it has no log."""
        return cls(mmap.mmap(-1, segment_size(1, 0)), 0, 1, 0, os.urandom(16))

    @classmethod
    def attach(cls, fd: int, number: int) -> Segment:
        """Map the segment that `create` made.

        :raises OSError: if the segment cannot be mapped.
        :raises SettingsError: if it is not a segment of this version, or if it has no place for this worker.
        """
        size = os.fstat(fd).st_size
        if size < _STATES:
            raise SettingsError("the shared memory is too small to be one of this version")
        data = mmap.mmap(fd, size)
        mark, fingerprint, workers, log, buckets, secret, checksum = _HEADER.unpack_from(data)
        if (
            mark != _MARK
            or fingerprint != _FINGERPRINT
            or checksum != crc32(data[: _HEADER.size - 4])
            or buckets != _buckets(log)
            or size != segment_size(workers, log)
        ):
            raise SettingsError("the shared memory was not made by this version")
        if not 0 <= number < workers:
            raise SettingsError(f"the shared memory has no place for worker {number + 1}: it has {workers}")
        return cls(data, number, workers, log, secret)

    def digest(self, text: str) -> int:
        """A 64-bit hash of a key, the same in all workers. It is keyed (BLAKE2b), so outsiders cannot choose keys that
        collide."""
        data = text.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._secret).digest(), "little")

    # Indexes into `words`.

    def state(self, worker: int) -> int:
        """Index of the first of a worker's state words. In order, they hold: bytes of its ring announced, bytes of its
        ring claimed, bytes of its log claimed, and the time until which an origin failure that it recorded may apply
        (epoch seconds). All of them only grow."""
        return (_STATES + worker * _STATE) // 8

    def floor(self, digest: int) -> int:
        """Index of the first word in which the workers record their last removal for a path or key."""
        return self.floors // 8 + (digest % FLOORS) * self.workers

    def bucket(self, digest: int) -> int:
        """Index of the first word of a key's bucket: `WAYS` hashes for each worker, then as many log positions."""
        return self.index // 8 + (digest % self.buckets) * self.workers * WAYS * 2

    def ring(self, worker: int) -> int:
        """Offset of a worker's ring, in bytes."""
        return self.rings + worker * RING

    def log_of(self, worker: int) -> int:
        """Offset of a worker's log, in bytes."""
        return self.logs + worker * self.log


def _buckets(log: int) -> int:
    return max(1, log // PER_ENTRY // WAYS) if log else 0


def segment_size(workers: int, log: int) -> int:
    """Size, in bytes, of a segment for `workers` workers, each with a log of `log` bytes."""
    return (
        _STATES
        + _pages(workers * _STATE)
        + _pages(FLOORS * workers * 8)
        + workers * RING
        + _pages(_buckets(log) * workers * WAYS * 16)
        + workers * log
    )


def create(workers: int, capacity: int, folder: Path) -> int:
    """Create a segment for `workers` workers, with `capacity` bytes of logs in total. Returns its file descriptor,
    which child processes inherit if it is passed to them.

    The memory is anonymous (memfd_create(2)): it disappears with the last process that holds it, and the size of
    /dev/shm does not limit it. Pages are allocated only when they are written. On systems without memfd, the segment
    is a deleted file in `folder`.

    :raises OSError: if neither can be created.
    """
    log = capacity // workers // _PAGE * _PAGE
    size = segment_size(workers, log)
    try:
        fd = os.memfd_create("keyfront-cache", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        file, path = tempfile.mkstemp(prefix="shared-", dir=folder)
        os.unlink(path)
        fd = file
    try:
        os.ftruncate(fd, size)
        header = _HEADER.pack(_MARK, _FINGERPRINT, workers, log, _buckets(log), os.urandom(16), 0)
        header = header[:-4] + struct.pack("<I", crc32(header[:-4]))
        if os.pwrite(fd, header, 0) != len(header):
            raise OSError("the shared memory's header cannot be written")
    except BaseException:
        os.close(fd)
        raise
    return fd
