"""A sink that writes one slice to the disk tier."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol
from zlib import crc32

from keyfront.edge.cache.disk_files import write_all
from keyfront.edge.cache.disk_format import PREFIX, name_of, sealed
from keyfront.edge.cache.entry import Head, encode_head
from keyfront.edge.cache.open_file import OpenFile


class SliceStore(Protocol):
    """The tier that a slice is written to (`DiskTier`)."""

    def submit(self, size: int, work: Callable[[], None]) -> None: ...

    def new_file(self) -> tuple[str, int]: ...

    def place(self, temporary: str, name: str, size: int) -> int: ...

    def mark_verified(self, fd: int) -> None: ...

    def account(self, delta: int) -> None: ...


class SliceWriter:
    """One slice being written to disk: fed on the event loop, written by the tier's thread.

    `written` bytes of it can be read back from `file`, at `offset`. It is `done` once the file has its final name, and
    `failed` if it will never get one.
    """

    lasting = True

    __slots__ = (
        "_checksum",
        "_head",
        "_left",
        "_length",
        "_loop",
        "_temporary",
        "_tier",
        "_waiter",
        "done",
        "failed",
        "file",
        "key",
        "offset",
        "received",
        "written",
    )

    def __init__(self, tier: SliceStore, key: str, length: int | None) -> None:
        self._tier = tier
        self.key = key
        self._length = length
        self._head = encode_head(Head(key))
        self._checksum = 0
        self._temporary = ""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._left = SimpleQueue[None]()  # one item per task that the thread has yet to do
        self.offset = PREFIX.size + len(self._head)
        self.file: OpenFile | None = None
        self.received = 0
        self.written = 0
        self.done = False
        self.failed = False

    @property
    def backlog(self) -> int:
        return 0 if self.failed else self.received - self.written

    def feed(self, chunk: bytes) -> None:
        self.received += len(chunk)
        self._submit(len(chunk), lambda: self._write(chunk))

    def finish(self) -> None:
        """Complete the slice."""
        self._submit(0, self._finish)

    def abandon(self) -> None:
        """Abandon the slice before it is complete. A holder of `file` can still read what was written."""
        self._submit(0, self._give_up)

    async def progress(self) -> None:
        """Wait until the thread has completed part of its pending work, if there is any."""
        waiter = self._waiter = self._loop.create_future()
        if not self._left.empty():
            await waiter

    def _submit(self, size: int, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                if not self.failed:
                    work()
            except OSError:
                self._give_up()
                raise
            finally:
                self._left.get()
                self._resolve_waiter()

        self._left.put(None)
        self._tier.submit(size, guarded)

    def _resolve_waiter(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_resolve, waiter)

    def _write(self, chunk: bytes) -> None:
        if self.file is None:
            self._temporary, fd = self._tier.new_file()
            self.file = OpenFile(fd)
            # The prefix stays zeroed until the rest is written.
            write_all(fd, [bytes(PREFIX.size), self._head])
        self._checksum = crc32(chunk, self._checksum)
        write_all(self.file.fd, [chunk])
        self.written += len(chunk)

    def _finish(self) -> None:
        if self.file is None or (self._length is not None and self.written != self._length):
            self._give_up()
            return
        prefix = sealed(self._head, self.written, self._checksum)[: PREFIX.size]
        if os.pwrite(self.file.fd, prefix, 0) != len(prefix):
            raise OSError("a short write")
        self._tier.mark_verified(self.file.fd)
        try:
            delta = self._tier.place(self._temporary, name_of(self.key), self.offset + self.written)
        except FileNotFoundError:
            if os.path.exists(self._temporary):
                raise
            self._give_up()  # it took too long and was removed as a leftover
            return
        self._tier.account(delta)
        self.done = True

    def _give_up(self) -> None:
        self.failed = True
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
