"""Files of the tier on disk: written whole, measured in blocks, and locked."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BLOCK: Final = 4096
"""The space that a file takes on disk is counted in blocks of this many bytes."""


def write_all(fd: int, pieces: list[bytes]) -> None:
    size = sum(map(len, pieces))
    sent = os.writev(fd, pieces)
    if sent < size:
        data = memoryview(b"".join(pieces))[sent:]
        while data:
            data = data[os.write(fd, data) :]


def blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def size_of(path: str) -> int:
    """What a file takes, 0 if there is none."""
    try:
        return blocks(os.stat(path, follow_symlinks=False).st_size)
    except OSError:
        return 0


@contextmanager
def locked(path: str, *, wait: bool) -> Iterator[int]:
    """The file's descriptor while this process alone has it. A killed process has it no longer.

    :raises BlockingIOError: if another has it and `wait` is false.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield fd
    finally:
        os.close(fd)


def sum_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0
