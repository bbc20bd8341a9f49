"""A log of purges after unsafe requests, for edges that use the same data folder but share no memory.

A cache must invalidate what it stores for a URL when it forwards a successful POST, PUT, PATCH, or DELETE (RFC 9111
§4.4). The workers of one `keyfront up` tell each other through shared memory (`removals`). The processes of an ASGI
server have no common parent, so they share none. There, the worker that forwarded the request appends a line to a file.
The others check that file as often as the feed, and purge the same URL.

Each line is written whole, under a lock. A long file is replaced by a new one: it is renamed while nothing is being
written, so a reader that has it open can still read it to its end.
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
"""File size, in bytes, above which a new file is started."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str, str]).decode


class PurgeLog:
    """The purge log at `path`, as used by one worker.

    Lines from before this object was created are ignored, and so are lines of workers that share memory with this one:
    they have the same `name`.

    A failure here never fails a request. It is logged once, and the other workers continue to serve what they have
    stored while it is fresh.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path = path
        self._own = name or f"{os.getpid()}-{os.urandom(4).hex()}"
        self._fd = -1
        self._seen: tuple[int, int] | None = None
        self._begun = b""  # a line not yet complete
        self._warned = False
        with suppress(OSError):
            self._open()
            os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, key: str, query: str) -> None:
        """Record that responses under a path's key, with this query part, have changed."""
        line = b"\n%b\n" % _encode((self._own, key, query))
        try:
            while not self._written(line):
                pass
            self._warned = False
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning("cannot notify other workers of what has changed at an origin: %s", error)

    def _written(self, line: bytes) -> bool:
        """Append the line. Returns False if a new file has just been started."""
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
        """The keys and query parts that other workers have recorded since the last call. Costs a single `stat` if
        there are none."""
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
                # Nothing writes to the previous file any more, and it has just been read to its end.
                self._open()
                text += b"\n" + self._rest()
        self._seen = seen
        *lines, self._begun = text.split(b"\n")
        found = []
        for line in lines:
            with suppress(msgspec.MsgspecError):  # empty, or left incomplete by a killed worker
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
