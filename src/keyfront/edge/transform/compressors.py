"""Compression of bodies at the edge: levels, threads, and limits.

An answer is compressed when it arrives from the origin, and stored compressed. The normalized Accept-Encoding is in
the cache key, so each key holds one representation, and nothing is compressed twice (cloudfront-semantics §5.11). The
decision, in `keyfront.edge.rules.encoding`, has two halves, both pure: `compressible` looks at the origin's answer,
`coding_for` at what the viewer accepts. Every answer that satisfies the first gets `Vary: Accept-Encoding`, compressed
or not.

A compressed answer is a different representation with the origin's entity tag, so viewers get that tag as a weak one
(RFC 9110 §8.8.1). Requests to the origin still use its own tag.

Levels, measured on HTML and source text (kilobytes to megabytes, 1 core): gzip 5 gives 20.9 % of the size at 32 MB/s;
gzip 6 saves 2 % more of that and takes 30 % longer. Brotli 5 gives 18.5 % at 25 MB/s; 4 is 7 % larger, and 6 saves 1 %
and takes up to twice as long. That cost is acceptable for a response that is filled once and served many times.

Bodies above `INLINE` are compressed in a thread, in pieces (both libraries release the GIL while they work): on the
event loop, a single brotli piece would block every other viewer of the worker for tens of milliseconds. A brotli
compressor takes 35 MB with the largest window and 3 MB with a window of 256 KiB, which makes ten megabytes of text 3 %
larger, so 256 KiB is the limit. While `MOST` bodies are being compressed, further ones are left uncompressed, as on a
busy CloudFront edge.
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
"""Largest body compressed on the event loop, in bytes: about half a millisecond of work."""
PIECE: Final = 64 * 1024
"""Bytes that the thread compresses in one go."""

MOST: Final = 24
"""Maximum number of bodies above `INLINE` that a worker compresses at the same time."""

GZIP_LEVEL: Final = 5
BROTLI_QUALITY: Final = 5
BROTLI_WINDOW: Final = 18
"""Base-2 logarithm of the largest window, in bytes."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Brotli:
    """brotli's compressor with zlib's method names and a window no larger than the body needs."""

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
    """The compressors of one worker. They use a single thread, so that the event loop's thread always gets at least
    half a core."""

    def __init__(self) -> None:
        self.under_way = 0
        self._thread = ThreadPoolExecutor(1, "compress")

    def encoded(self, answer: OriginReply, coding: bytes) -> tuple[OriginReply, bytes]:
        """The origin's answer with its body compressed as it arrives and its headers unchanged, and the coding, which
        is `IDENTITY` if too many bodies are already being compressed.

        The body raises what the origin's body raises. Its length is unknown, unless the origin's body was small and
        arrived whole.

        :param coding: `gzip` or `br`; with any other value, the answer is returned unchanged.
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
    """A body that is already complete."""

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
    """A body compressed piece by piece as it arrives, in the worker's thread or, if there is none, inline."""

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
