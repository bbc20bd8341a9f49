"""The memory that all workers of a machine share: one segment, made by their parent and inherited as a file descriptor.

    header          mark, layout, sizes, a secret for hashing, and the change word
    states          for each worker: how far its ring and its log are written
    floors          for each bucket of paths and each worker: when it last removed one of them
    rings           for each worker: the removals that the others have to apply to their own memory (`removals`)
    index           for each bucket of keys and each worker: where its responses are (`arena`)
    logs            for each worker: responses, one after the other, the oldest overwritten first

Every word and every byte after the header has one writer, the worker whose number it bears. So nothing is locked, a
worker that is stopped or killed in the middle of a write holds up nobody, and the process that takes a dead worker's
place goes on where that one stopped. Readers take what they find as a claim: a number is checked against its limits, a
record against its checksum, and a record that was overwritten while it was copied is not used.

Words are 8 bytes, aligned. CPython copies such a word with one instruction on 64-bit machines, so no half of one is
ever seen. Writers write data first and the words that announce it afterwards. x86-64 keeps that order. ARM may show the
announcement first; then the checksum fails, and the reader counts the data as missing or, for removals, drops all that
it has. A request that begins after an answer was sent sees all that was written before: sending and receiving
synchronize.
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
"""Bytes of each worker's ring of removals."""
FLOORS: Final = 16_384
"""Buckets of paths. Two paths in one bucket share their removals: that costs a miss, never a wrong answer."""
WAYS: Final = 8
"""Responses of one worker in one bucket of the index."""
PER_ENTRY: Final = 512
"""Bytes of log for which the index has room for one response."""

_MARK: Final = b"KFshare1"
_HEADER: Final = struct.Struct("<8sIIQQ16sI")
"""The mark; the layout's fingerprint; workers; bytes of each log; buckets of the index; the secret; a checksum."""
_FINGERPRINT: Final = crc32(repr((RING, FLOORS, WAYS, 2)).encode())
_CHANGE_WORD: Final = 64 // 8
_STATES: Final = 4096
_STATE: Final = 64  # a cache line for each worker
_PAGE: Final = 4096


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Segment:
    """The mapped segment, as one worker sees it. `words` are its 8-byte words, `data` its bytes.

    :param number: which of the `workers` this is, from 0.
    :param log: bytes of each worker's log; with 0 there are no logs and no index, only removals.
    """

    def __init__(self, data: mmap.mmap, number: int, workers: int, log: int, secret: bytes) -> None:
        self.data = data
        self.number = number
        self.workers = workers
        self.log = log
        self.buckets = _buckets(log)
        self.words = memoryview(data).cast("Q")
        self.change = self.words[_CHANGE_WORD : _CHANGE_WORD + 1]
        """One word, which differs after each removal from what it was at any time before."""
        self._secret = secret
        self.name = hashlib.blake2b(secret, digest_size=8).hexdigest()
        """The same for all workers that share this segment, and for no others."""
        self.floors = _STATES + _pages(workers * _STATE)
        self.rings = self.floors + _pages(FLOORS * workers * 8)
        self.index = self.rings + workers * RING
        self.logs = self.index + _pages(self.buckets * workers * WAYS * 16)

    @classmethod
    def private(cls) -> Segment:
        """A segment for one worker alone: it shares nothing, so it has no log."""
        return cls(mmap.mmap(-1, segment_size(1, 0)), 0, 1, 0, os.urandom(16))

    @classmethod
    def attach(cls, fd: int, number: int) -> Segment:
        """Map the segment that `create` made.

        :raises OSError: if it cannot be mapped.
        :raises SettingsError: if it is not such a segment, or has no place for this worker.
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
        """A hash of a key, the same in all workers. Keyed, so that nobody outside can choose keys that collide."""
        data = text.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._secret).digest(), "little")

    # The words, by their place among `words`.

    def state(self, worker: int) -> int:
        """The first of a worker's words: bytes of its ring announced, bytes of its ring claimed, bytes of its log
        claimed, until when an origin's failure that it has met may count (epoch seconds). All only grow."""
        return (_STATES + worker * _STATE) // 8

    def floor(self, digest: int) -> int:
        """The first of the words in which the workers note their last removal of a path or key."""
        return self.floors // 8 + (digest % FLOORS) * self.workers

    def bucket(self, digest: int) -> int:
        """The first of the words of a key's bucket: `WAYS` hashes for each worker, then as many places in logs."""
        return self.index // 8 + (digest % self.buckets) * self.workers * WAYS * 2

    def ring(self, worker: int) -> int:
        """Where a worker's ring begins, in bytes."""
        return self.rings + worker * RING

    def log_of(self, worker: int) -> int:
        """Where a worker's log begins, in bytes."""
        return self.logs + worker * self.log


def _buckets(log: int) -> int:
    return max(1, log // PER_ENTRY // WAYS) if log else 0


def segment_size(workers: int, log: int) -> int:
    """Bytes of a segment for so many workers, each with a log of `log` bytes."""
    return (
        _STATES
        + _pages(workers * _STATE)
        + _pages(FLOORS * workers * 8)
        + workers * RING
        + _pages(_buckets(log) * workers * WAYS * 16)
        + workers * log
    )


def create(workers: int, capacity: int, folder: Path) -> int:
    """Make a segment for so many workers, with `capacity` bytes of logs in all. Returns its file descriptor, which
    children inherit if they are passed it.

    The memory has no name (memfd_create(2)), so it is gone with the last process that has it, and the size of /dev/shm
    does not matter. It takes pages only as they are written to. Where the system has no such memory it is a deleted
    file in `folder`.

    :raises OSError: if neither can be had.
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
