"""A large object at an origin that handles ranges, conditions and whatever else a test needs, correctly or not."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from email.utils import formatdate

from tests.origin import ReceivedRequest, ScriptedOrigin, Wire

MODIFIED = "Sun, 01 Feb 2026 00:00:00 GMT"


def bytes_of(size: int, seed: int = 1) -> bytes:
    """That many bytes, no two stretches of which are alike."""
    return random.Random(seed).randbytes(size)


class Film:
    """`await film(asked, wire)` answers one request, so it can be a script's only step. `spans` are the byte ranges
    that were sent with each 206 (None for other answers), `statuses` the status codes.

    If `ranges` is false, it answers every request with the whole object; `etag` and `modified` are its validators,
    either may be empty. `brake`, if set, is awaited after `before` bytes of each body; `break_at` is the byte of the
    object at which the connection breaks, once. `fail` is a status code to answer with instead.
    """

    def __init__(
        self, body: bytes, *, etag: str = '"1"', modified: str = "", control: str = "max-age=1000"
    ) -> None:
        self.body = body
        self.etag = etag
        self.modified = modified
        self.control = control
        self.clock: Callable[[], float] = time.time
        self.ranges = True
        self.chunked = False
        self.tells_etag_in_206 = True
        self.fail = 0
        self.extra: list[str] = []
        self.brake: asyncio.Event | None = None
        self.before = 0
        self.break_at: int | None = None
        self.spans: list[tuple[int, int] | None] = []
        self.statuses: list[int] = []
        self.asked: list[ReceivedRequest] = []
        self.sent = 0

    def on(self, origin: ScriptedOrigin, path: str = "/film") -> Film:
        origin.on(path, [self])
        return self

    def date(self) -> str:
        return formatdate(self.clock(), usegmt=True)

    @property
    def fetched(self) -> int:
        """The number of requests for something."""
        return len(self.asked)

    async def __call__(self, asked: ReceivedRequest, wire: Wire) -> None:
        self.asked.append(asked)
        body, size = self.body, len(self.body)
        status, first, last = self._answer(asked)
        self.statuses.append(status)
        self.spans.append((first, last) if status == 206 else None)
        lines = [
            f"HTTP/1.1 {status} X",
            f"Date: {self.date()}",
            f"Cache-Control: {self.control}",
            *self.extra,
        ]
        if self.etag and (status != 206 or self.tells_etag_in_206):
            lines.append(f"ETag: {self.etag}")
        if self.modified:
            lines.append(f"Last-Modified: {self.modified}")
        if status == 206:
            lines.append(f"Content-Range: bytes {first}-{last}/{size}")
        if status == 416:
            lines.append(f"Content-Range: bytes */{size}")
        part = b"" if status in (304, 416) or asked.method == "HEAD" else body[first : last + 1]
        if status >= 500:
            part = b"the origin is not well"
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif status != 304:
            lines.append(f"Content-Length: {last - first + 1 if asked.method == 'HEAD' else len(part)}")
        await wire.send("\r\n".join([*lines, "", ""]).encode())
        position, end = first, first + len(part)
        while position < end:
            step = min(end - position, 16384)
            if self.brake is not None:
                step = min(step, self.before - (position - first))
            if self.break_at is not None and position <= self.break_at < position + step:
                await wire.send(part[position - first : self.break_at - first])
                self.break_at = None
                wire.reset()
                raise ConnectionResetError
            chunk = part[position - first : position - first + step]
            if chunk:
                await wire.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.chunked else chunk)
                position += step
                self.sent += step
            if self.brake is not None and position - first >= self.before and position < end:
                await self.brake.wait()
                self.brake = None
        if self.chunked:
            await wire.send(b"0\r\n\r\n")

    def _answer(self, asked: ReceivedRequest) -> tuple[int, int, int]:
        size = len(self.body)
        if self.fail:
            return self.fail, 0, size - 1
        match = asked.header("if-none-match")
        if match is not None and match == self.etag:
            return 304, 0, -1
        if match is None and self.modified and asked.header("if-modified-since") == self.modified:
            return 304, 0, -1
        wanted = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", asked.header("range") or "")
        condition = asked.header("if-range")
        if wanted is None or not self.ranges or condition not in (None, self.etag, self.modified):
            return 200, 0, size - 1
        low, high = wanted.groups()
        first = int(low) if low else max(0, size - int(high))
        last = min(int(high), size - 1) if low and high else size - 1
        return (206, first, last) if first < size else (416, 0, -1)
