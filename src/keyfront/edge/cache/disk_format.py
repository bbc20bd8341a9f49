"""The format of a file in the disk tier: its name, head, seal, and slices."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from typing import Final
from zlib import crc32

import msgspec

from keyfront.edge.cache.entry import Head, decode_head
from keyfront.edge.cache.open_file import OpenFile
from keyfront.edge.types.files import FileRange

_MARK: Final = b"KFcache1"

FORMAT: Final = 2
"""The format of the head. Raise it with every change of what `entry.Head` holds or means: entries of another format are
never used. In place of the number, format 1 had a checksum of the names of the head's fields."""


PREFIX: Final = struct.Struct("<8sIIQII")
"""The magic mark; the format; bytes of the head; bytes of the body; checksum of the body; checksum of all preceding
fields and the head."""


LONGEST_HEAD: Final = 1 << 20
"""Largest head of an entry, in bytes: a key, the response's headers, and what it varies on come to 100 KB at most."""
LONGEST_WHOLE: Final = 1 << 30
"""Default for the largest body that is read into memory, in bytes."""
LONGEST_BODY: Final = 1 << 50
"""Largest body stored in slices, in bytes."""
_FIRST_READ: Final = 64 * 1024


# Errors from opening a file that cannot be ours: a link, a socket, or a file of another user under whom this ran
# before.
FOREIGN: Final = frozenset({errno.EACCES, errno.ELOOP, errno.ENXIO, errno.EPERM})


def sealed(head: bytes, body_length: int, body_checksum: int) -> bytes:
    """The bytes that precede a body: the prefix and the head."""
    prefix = PREFIX.pack(_MARK, FORMAT, len(head), body_length, body_checksum, 0)
    prefix = prefix[:-4] + struct.pack("<I", crc32(head, crc32(prefix[:-4])))
    return prefix + head


class Entry:
    """An entry whose head has been verified. `data` is the part of the file read so far."""

    __slots__ = ("checksum", "data", "file", "head", "length", "mtime_ns", "offset")

    def __init__(
        self, file: OpenFile, head: Head, offset: int, length: int, checksum: int, data: bytes, mtime_ns: int
    ) -> None:
        self.file = file
        self.head = head
        self.offset = offset
        self.length = length
        self.checksum = checksum
        self.data = data
        self.mtime_ns = mtime_ns

    def body(self) -> bytes | None:
        """The body, if its checksum matches; otherwise None.

        :raises OSError: if the file cannot be read.
        """
        body = self.data[self.offset :]
        while len(body) < self.length:
            more = os.pread(self.file.fd, self.length - len(body), self.offset + len(body))
            if not more:
                return None
            body += more
        return body if crc32(body) == self.checksum else None

    def holds(self) -> bool:
        """Whether the body matches its checksum. Does not hold the body in memory."""
        checksum = 0
        for chunk in FileRange(self.file, self.offset, self.length):
            checksum = crc32(chunk, checksum)
        return checksum == self.checksum


class OtherFormat(Exception):
    """The entry was written by another version of Keyfront."""


def has_other_format(start: bytes) -> bool:
    """Whether an entry that begins with these bytes was written by another version of Keyfront."""
    if len(start) < PREFIX.size:
        return False
    mark, found, *_ = PREFIX.unpack_from(start)
    return bool(mark == _MARK and found != FORMAT)


def read_entry(fd: int, key: str | None, largest: int = LONGEST_WHOLE) -> Entry | None:
    """The entry in an open file, or None if it fails verification or has another key. The entry takes ownership of
    `fd`.

    :param key: the expected key; None accepts any.
    :param largest: bytes of the largest body that may be read into memory.
    :raises OtherFormat: if another version of Keyfront wrote the entry.
    :raises OSError: if the file cannot be read.
    """
    file = OpenFile(fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    data = os.pread(fd, _FIRST_READ, 0)
    if len(data) < PREFIX.size:
        return None
    if has_other_format(data):
        raise OtherFormat
    mark, _, head_length, body_length, body_checksum, checksum = PREFIX.unpack_from(data)
    offset = PREFIX.size + head_length
    if mark != _MARK or status.st_size != offset + body_length:
        return None
    if head_length > LONGEST_HEAD:
        return None  # forged: a sparse file can be of any size
    if len(data) < offset:
        data += os.pread(fd, offset - len(data), len(data))
    seal = crc32(data[PREFIX.size : offset], crc32(data[: PREFIX.size - 4]))
    if len(data) < offset or seal != checksum:
        return None
    try:
        head = decode_head(memoryview(data)[PREFIX.size : offset])
    except msgspec.DecodeError:
        return None
    if (key is not None and head.key != key) or not _sound(head, body_length, largest):
        return None
    return Entry(file, head, offset, body_length, body_checksum, data, status.st_mtime_ns)


def _sound(head: Head, body_length: int, largest: int) -> bool:
    """Whether an edge can have written these numbers. Others are never used to allocate or count. `largest` is the
    size, in bytes, of the largest body that is read into memory."""
    if head.slices is not None:
        total, size, *_ = head.slices
        return 0 <= total <= LONGEST_BODY and 0 < size <= LONGEST_BODY
    return head.meta is None or body_length <= largest


def name_of(key: str) -> str:
    """The path of an entry, relative to the folder."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{digest[:2]}/{digest}"
