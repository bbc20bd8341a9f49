"""File helpers of the disk tier: complete writes, sizes in blocks, and locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BLOCK: Final = 4096
"""Block size, in bytes, in which the disk space of a file is counted."""


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
    """Disk space that a file takes, in bytes (whole blocks); 0 if it does not exist."""
    try:
        return blocks(os.stat(path, follow_symlinks=False).st_size)
    except OSError:
        return 0


@contextmanager
def locked(path: str, *, wait: bool) -> Iterator[int]:
    """Lock the file exclusively and yield its descriptor. If the process is killed, the lock is released.

    :raises BlockingIOError: if another process holds the lock and `wait` is false.
    :raises OSError: if the file cannot be opened.
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
