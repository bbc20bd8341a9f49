"""Compression at the edge: which answers are compressed, what their headers say then, and the work itself.

An answer is compressed when it comes from the origin, and stored so: the normalised Accept-Encoding is in the cache
key, therefore each key holds one representation, and nothing is compressed twice (cloudfront-semantics §5.11). The
decision has two halves, both pure: `compressible` looks at the origin's answer, `coding_for` at what the viewer
accepts. What satisfies the first says `Vary: Accept-Encoding`, compressed or not.

A compressed answer is another representation with the origin's entity tag, so that tag is only weak for viewers
(RFC 9110 §8.8.1). The origin is asked with its own tag as before.

Levels, measured on HTML and source text (kilobytes to megabytes, 1 core): gzip 5 gives 20.9 % of the size at 32 MB/s,
gzip 6 saves 2 % more of that and takes 30 % longer; brotli 5 gives 18.5 % at 25 MB/s, 4 is 7 % larger, 6 saves 1 %
and takes up to twice as long. What is filled once and served many times may cost that.

Bodies above `INLINE` are compressed in a thread, in pieces (both libraries let go of the interpreter meanwhile): on the
loop one piece of brotli's would hold up every other viewer of the worker for tens of milliseconds. A brotli compressor
takes 35 MB with the largest window and 3 MB with one of 256 KiB, which makes ten megabytes of text 3 % larger; so the
window is that, and when `MOST` are at work what comes besides stays as it is, as on a busy edge of CloudFront's.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import brotli

from keyfront.edge.rules.encoding import IDENTITY, compressed
from keyfront.edge.types.messages import OriginReply

INLINE: Final = 16 * 1024
"""Bytes of the largest body that is compressed on the event loop: about half a millisecond."""
PIECE: Final = 64 * 1024
"""Bytes that a thread compresses in one go."""

MOST: Final = 24
"""Bodies above `INLINE` that a worker compresses at the same time."""

GZIP_LEVEL: Final = 5
BROTLI_QUALITY: Final = 5
BROTLI_WINDOW: Final = 18
"""The largest window is two to the power of this, in bytes."""


# -- the decision --------------------------------------------------------------------------------------------


# -- what the headers say ------------------------------------------------------------------------------------


# -- the work ------------------------------------------------------------------------------------------------


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Brotli:
    """brotli's compressor under zlib's names, its window no larger than the body needs."""

    def __init__(self, size: int) -> None:
        window = min(BROTLI_WINDOW, max(16, size.bit_length()))
        self._compressor = brotli.Compressor(quality=BROTLI_QUALITY, lgwin=window)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._compressor.process(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.finish())


def _compressor(coding: bytes, size: int) -> _Compressor:
    if coding == b"br":
        return _Brotli(size)
    return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)


class Compressors:
    """The compression of one worker: a single thread, so that the event loop's keeps half a core at least."""

    def __init__(self) -> None:
        self.under_way = 0
        self._thread = ThreadPoolExecutor(1, "compress")

    def encoded(self, answer: OriginReply, coding: bytes) -> tuple[OriginReply, bytes]:
        """The origin's answer with its body compressed as it comes, its headers as they were; and the coding, which
        is `IDENTITY` where too much is being compressed already.

        The body raises what the origin's body raises. Its length is not known, unless it came whole and is small.

        :param coding: `gzip` or `br`; with any other it is the answer itself.
        """
        if not compressed(coding):
            return answer, coding
        size = answer.length
        assert size is not None  # noqa: S101 - compressible() asked
        whole = answer.whole
        if size <= INLINE and whole is not None:
            compressor = _compressor(coding, size)
            whole = compressor.compress(whole) + compressor.flush()
            return _as(answer, _Whole(whole, answer), len(whole), whole), coding
        if size > INLINE and self.under_way >= MOST:
            return answer, IDENTITY
        stream = _Stream(answer, _compressor(coding, size), self if size > INLINE else None)
        return _as(answer, stream, None, None), coding

    async def run(self, work: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _as(
    answer: OriginReply, body: AsyncIterator[bytes], length: int | None, whole: bytes | None
) -> OriginReply:
    return OriginReply(
        answer.status,
        answer.reason,
        answer.headers,
        body,
        length=length,
        sized=answer.sized,
        connect_time=answer.connect_time,
        whole=whole,
    )


class _Whole:
    """A body that is there already."""

    def __init__(self, body: bytes, answer: OriginReply) -> None:
        self._body = body
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._body:
            raise StopAsyncIteration
        body, self._body = self._body, b""
        return body

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Stream:
    """A body that is compressed piece by piece as it comes, in the worker's thread or, without one, at once."""

    def __init__(self, answer: OriginReply, compressor: _Compressor, place: Compressors | None) -> None:
        self._answer = answer
        self._compressor = compressor
        self._place = place
        self._ended = False
        self._closed = False
        if place is not None:
            place.under_way += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            pieces: list[bytes] = []
            size = 0
            async for chunk in self._answer.body:
                pieces.append(chunk)
                size += len(chunk)
                if size >= PIECE:
                    break
            else:
                self._ended = True
            out = await self._compress(b"".join(pieces))
            if out:
                return out
        raise StopAsyncIteration

    async def _compress(self, data: bytes) -> bytes:
        compressor, last = self._compressor, self._ended

        def work() -> bytes:
            out = compressor.compress(data) if data else b""
            return out + compressor.flush() if last else out

        return work() if self._place is None else await self._place.run(work)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._place is not None:
                self._place.under_way -= 1
        await self._answer.aclose()
