"""A slice on its way to disk."""

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
    """One slice on its way to disk: fed on the loop, written by the tier's thread.

    `written` bytes of it can be read back from `file`, at `offset`. `done` once it has its name, `failed` if it
    will never have one.
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
        self._left = SimpleQueue[None]()  # as long as what the thread has still to do
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
        """It is whole."""
        self._submit(0, self._finish)

    def abandon(self) -> None:
        """It will not be whole. What was written can still be read by who holds `file`."""
        self._submit(0, self._give_up)

    async def progress(self) -> None:
        """Wait until the thread has done some of what waits for it, if anything does."""
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
                self._tell()

        self._left.put(None)
        self._tier.submit(size, guarded)

    def _tell(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_resolve, waiter)

    def _write(self, chunk: bytes) -> None:
        if self.file is None:
            self._temporary, fd = self._tier.new_file()
            self.file = OpenFile(fd)
            # The prefix's place stays empty until the rest is there.
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
            self._give_up()  # it was taken for a left-over: it took too long
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
