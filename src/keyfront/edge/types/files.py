"""File ranges: pieces of a body in open files. The code that reads the files is in `cache.open_file`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

READ: Final = 256 * 1024
"""Bytes read from a file at a time when the kernel cannot send it directly."""


class ReadableFile(Protocol):
    """A file that stays open for as long as this object is referenced."""

    @property
    def fd(self) -> int: ...

    def read(self, length: int, offset: int) -> bytes:
        """At most `length` bytes from `offset`; empty at the end of the file.

        :raises OSError: if the file cannot be read.
        """


class FileRange:
    """A piece of a body in a file: `length` bytes from `offset`.

    A shell lets the kernel send it if possible (sendfile(2)). Iteration reads it, and raises OSError if the file cannot
    be read or ends too early.
    """

    __slots__ = ("file", "length", "offset")

    def __init__(self, file: ReadableFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def cut(self, first: int, length: int) -> FileRange:
        """At most `length` bytes of this range, starting at its byte `first`."""
        return FileRange(self.file, self.offset + first, min(length, self.length - first))

    def __iter__(self) -> Iterator[bytes]:
        offset, left = self.offset, self.length
        while left:
            chunk = self.file.read(min(left, READ), offset)
            if not chunk:
                raise OSError("a stored body is shorter than its head states")
            offset += len(chunk)
            left -= len(chunk)
            yield chunk
