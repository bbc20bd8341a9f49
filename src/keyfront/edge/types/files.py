"""Open files and ranges of them, as bodies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

READ: Final = 256 * 1024
"""Bytes that are read from a file in one go where the kernel cannot send it."""


class OpenFile:
    """A file that is open for reading: `fd` until the last who holds this lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class FileRange:
    """A piece of a body that lies in a file: `length` bytes from `offset`. A shell lets the kernel send it where it
    can (sendfile(2)); to iterate over it reads it, and raises OSError if the file cannot be read or is shorter."""

    __slots__ = ("file", "length", "offset")

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def cut(self, first: int, length: int) -> FileRange:
        """`length` bytes of it, from its own byte number `first`."""
        return FileRange(self.file, self.offset + first, min(length, self.length - first))

    def __iter__(self) -> Iterator[bytes]:
        offset, left = self.offset, self.length
        while left:
            chunk = os.pread(self.file.fd, min(left, READ), offset)
            if not chunk:
                raise OSError("a stored body is shorter than its head says")
            offset += len(chunk)
            left -= len(chunk)
            yield chunk
