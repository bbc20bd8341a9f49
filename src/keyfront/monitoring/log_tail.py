"""Following an access log across its rotation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PIECE = 256 * 1024
"""Bytes that are read at a time."""
_LONGEST_LINE = 1024 * 1024
"""Bytes. A longer line is not a record; its pieces are passed on as lines, so that memory stays bounded."""


class LogFollower:
    """The lines that are appended to a file, also after the file was moved away and a new one was created, or was
    emptied in place. The file may be missing: it is opened when it appears.

    `lines` returns at once; when there is nothing new, the caller waits and calls it again.
    """

    def __init__(self, path: Path, last: int = 0) -> None:
        """
        :param last: how many of the last lines that the file has now are among the first result of `lines`.
        :raises OSError: if the file exists and cannot be read.
        """
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        if (file := self._open()) is not None:
            _seek_to_last(file, last)

    def lines(self) -> Iterator[bytes]:
        """The lines since the last call, each without its line break. A line that is not finished is not returned
        yet.

        :raises OSError: if the file cannot be read.
        """
        while True:
            # Whether there is a new file is determined first: whatever is added to the old one before the writer
            # notices is then read below.
            moved = self._moved()
            yield from self._new_lines()
            if not moved:
                return
            if self._rest:
                yield self._rest  # the old file will not be continued
                self._rest = b""
            self.close()
            if self._open() is None:
                return

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO | None:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            self._file = None
        return self._file

    def _moved(self) -> bool:
        if self._file is None:
            return True
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False  # the next write creates a new one
        own = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            return True
        if own.st_size < self._file.tell():  # emptied in place, as by logrotate's copytruncate
            self._file.seek(0)
            self._rest = b""
        return False

    def _new_lines(self) -> Iterator[bytes]:
        while self._file is not None and (piece := self._file.read(_PIECE)):
            *whole, self._rest = (self._rest + piece).split(b"\n")
            yield from whole
            if len(self._rest) > _LONGEST_LINE:
                yield self._rest
                self._rest = b""


def _seek_to_last(file: BinaryIO, count: int) -> None:
    """Move to the beginning of the last `count` finished lines."""
    position = file.seek(0, os.SEEK_END)
    breaks = 0
    while position > 0:
        start = max(0, position - _PIECE)
        file.seek(start)
        piece = file.read(position - start)
        at = len(piece)
        while (at := piece.rfind(b"\n", 0, at)) >= 0:
            breaks += 1
            if breaks > count:
                file.seek(start + at + 1)
                return
        position = start
    file.seek(0)
