"""Ranges of open files, as pieces of a body. Whatever reads the files is elsewhere (`cache.open_file`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

READ: Final = 256 * 1024
"""Bytes that are read from a file at once where the kernel cannot send it."""


class ReadableFile(Protocol):
    """A file that stays open as long as something holds this."""

    @property
    def fd(self) -> int: ...

    def read(self, length: int, offset: int) -> bytes:
        """At most `length` bytes from `offset`; empty at the end of the file.

        :raises OSError: if the file cannot be read.
        """


class FileRange:
    """A piece of a body in a file: `length` bytes from `offset`.

    A shell lets the kernel send it where it can (sendfile(2)). Iterating over it reads it, and raises OSError if the
    file cannot be read or ends too early.
    """

    __slots__ = ("file", "length", "offset")

    def __init__(self, file: ReadableFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def cut(self, first: int, length: int) -> FileRange:
        """At most `length` bytes of this range, from its byte number `first`."""
        return FileRange(self.file, self.offset + first, min(length, self.length - first))

    def __iter__(self) -> Iterator[bytes]:
        offset, left = self.offset, self.length
        while left:
            chunk = self.file.read(min(left, READ), offset)
            if not chunk:
                raise OSError("a stored body is shorter than its head says")
            offset += len(chunk)
            left -= len(chunk)
            yield chunk
