"""What requests have changed at origins, told to edges that use the same data folder but share no memory.

A cache that passes a successful POST, PUT, PATCH or DELETE on forgets what it has for that URL (RFC 9111 §4.4). The
workers of one `keyfront up` tell each other in memory (`removals`). The processes of an ASGI server have different
parents, so they share none. For them the worker that passed the request writes a line into a file, and the others, who
look at it as often as at the feed, forget likewise.

A line is written at once and whole, under a lock. The file is begun anew when it is long: by renaming it while nobody
writes, so that who has it open still reads it to its end.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

logger = logging.getLogger("keyfront.edge")

LONGEST: Final = 1 << 20
"""Bytes after which the file is begun anew."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str, str]).decode


class PurgeLog:
    """The file at `path`, for one worker. What was told before this was made is not news, nor is what another worker
    has told that shares its memory with this one: those bear the same `name`.

    No failure of it is a failure of the edge: what cannot be told is told once in the log, and others serve what they
    have for as long as it is fresh.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path = path
        self._own = name or f"{os.getpid()}-{os.urandom(4).hex()}"
        self._fd = -1
        self._seen: tuple[int, int] | None = None
        self._begun = b""  # a line that is not whole yet
        self._warned = False
        with suppress(OSError):
            self._open()
            os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, key: str, query: str) -> None:
        """Tell the others that what lies under a path's key, with this part of a query string, was changed."""
        line = b"\n%b\n" % _encode((self._own, key, query))
        try:
            while not self._written(line):
                pass
            self._warned = False
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning("other workers cannot be told what was changed at an origin: %s", error)

    def _written(self, line: bytes) -> bool:
        """False if the file was begun anew just now."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            status = os.fstat(fd)
            if not _is_at(self._path, status):
                return False
            if status.st_size > LONGEST:
                os.rename(self._path, self._path.with_name(f"{self._path.name}.before"))
                return False
            return os.write(fd, line) == len(line)
        finally:
            os.close(fd)

    def poll(self) -> list[tuple[str, str]]:
        """What others have told since this was last asked: keys and parts of query strings. One `stat` if nothing."""
        try:
            status = os.stat(self._path)
        except OSError:
            return []
        seen = (status.st_ino, status.st_size)
        if seen == self._seen:
            return []
        text = b""
        with suppress(OSError):
            if self._fd >= 0:
                text = self._begun + self._rest()
            if self._fd < 0 or os.fstat(self._fd).st_ino != status.st_ino:
                # Nobody writes into the one before any more, and it has just been read to its end.
                self._open()
                text += b"\n" + self._rest()
        self._seen = seen
        *lines, self._begun = text.split(b"\n")
        found = []
        for line in lines:
            with suppress(msgspec.MsgspecError):  # an empty one, or what a killed worker left
                own, key, query = _decode(line)
                if own != self._own:
                    found.append((key, query))
        return found

    def _open(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def _rest(self) -> bytes:
        pieces = []
        while piece := os.read(self._fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino)
