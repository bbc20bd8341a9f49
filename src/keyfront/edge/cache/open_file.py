"""Files of the cache on disk that are open for reading."""

from __future__ import annotations

import os


class OpenFile:
    """An open file that owns its descriptor: `fd` is closed when the last reference to this object is gone. A body can
    therefore still be sent after its entry was evicted."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, length: int, offset: int) -> bytes:
        """At most `length` bytes from `offset`; empty at the end of the file.

        :raises OSError: if the file cannot be read.
        """
        return os.pread(self.fd, length, offset)

    def __del__(self) -> None:
        os.close(self.fd)
