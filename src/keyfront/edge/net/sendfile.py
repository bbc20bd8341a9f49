"""Sending files with sendfile(2): bytes go from the page cache to the socket without passing through this process.

uvloop has no `loop.sendfile`, and its transports own their descriptor, which `add_writer` rejects. This module
therefore sends directly on the transport's socket while the transport has no data of its own to send, and waits for
writability on a duplicate of the descriptor. Decision 0010 has the measurements against nginx.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

from keyfront.edge.types.files import FileRange

_GONE: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EBADF}
)

BURST: Final = 1024 * 1024
"""Bytes after which other connections get their turn, even if this one could take more."""


async def send_range(transport: asyncio.Transport, piece: FileRange, moved: Callable[[int], None]) -> None:
    """Send a file range on the transport's socket. The transport's own buffer must be empty and stay empty.

    :param moved: called with the number of bytes each time some were sent.
    :raises OSError: if the connection or the file fails; ConnectionError only for the connection.
    """
    socket = transport.get_extra_info("socket")
    if socket is None or transport.is_closing():
        raise ConnectionResetError("the connection is closed")
    out = socket.fileno()
    file, offset, left = piece.file.fd, piece.offset, piece.length
    burst = 0
    room: _Room | None = None
    try:
        while left:
            count = min(left, BURST)
            try:
                sent = os.sendfile(out, file, offset, count)
            except (BlockingIOError, InterruptedError):
                sent = -1
            except OSError as error:
                if error.errno in _GONE:
                    raise ConnectionResetError(error.errno, "the viewer has left") from error
                raise
            if sent == 0:
                raise OSError("a stored body is shorter than its head states")
            if sent > 0:
                offset += sent
                left -= sent
                burst += sent
                moved(sent)
            if left and sent < count:
                if room is None:
                    room = _Room(out)
                await room.wait()
                burst = 0
            elif left and burst >= BURST:
                await asyncio.sleep(0)
                burst = 0
            if transport.is_closing():
                raise ConnectionResetError("the connection is closed")
    finally:
        if room is not None:
            room.close()


class _Room:
    """Waits until a socket owned by a transport is writable."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = os.dup(fd)
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_writer(self._fd, self._ready)
        try:
            await self._waiter
        finally:
            self._loop.remove_writer(self._fd)

    def _ready(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        os.close(self._fd)
