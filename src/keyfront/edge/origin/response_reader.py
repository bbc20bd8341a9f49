"""The reader for one origin response as it arrives.

Parsing is done by llhttp (httptools) in strict mode. A head that it rejects is read again as leniently as RFC 9112
allows (`lenient_head`). This module interprets the results. Framing is strict (RFC 9112 §6.3): anything that two
recipients could interpret differently is rejected. That is Content-Length together with Transfer-Encoding, several
lengths, any transfer coding other than a single `chunked`, a second 100, and a 101 that does not accept the WebSocket
handshake that was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from enum import Enum
from typing import Any, Final, Protocol

import httptools

from keyfront.edge.origin.lenient_head import BadHeadError, HeadReader, escaped, shown
from keyfront.edge.origin.request import Interim
from keyfront.edge.semantics.header_limits import MAX_LINES, MAX_LINES_OF_ONE, too_many_lines
from keyfront.edge.semantics.websocket import acceptance_fault
from keyfront.edge.types.messages import Header
from keyfront.errors import OriginFailure

MAX_DIGITS: Final = 32
"""Maximum number of characters in a Content-Length."""

MAX_HEAD: Final = 20_480
"""Maximum bytes of all header lines of a response, including those of interim responses (cloudfront-semantics §3.3)."""

_BESIDE: Final = 1024
"""Bytes of a head outside its header lines: status lines, line ends, whitespace around values."""

HIGH_WATER: Final = 256 * 1024
"""Unread body bytes above which reading from the origin is paused; one more read of the loop may be added to that."""
SMALL: Final = 4096
"""Bytes up to which a piece of a body is appended to the previous one."""
LOW_WATER: Final = 64 * 1024
"""Unread body bytes at which reading resumes."""
MAX_INTERIM: Final = 16
"""Interim responses (1xx) to one request that are passed on. Further ones are read and dropped, up to MAX_HEAD
bytes."""

NEVER: Final = float("inf")

_ABOUT_THE_CONNECTION: Final = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"transfer-encoding"}
)


class Framing(Enum):
    """How a response's body ends (RFC 9112 §6.3)."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3


class ReaderConnection(Protocol):
    """The part of the connection that its response reader uses."""

    loop: asyncio.AbstractEventLoop

    def pause(self) -> None: ...

    def resume(self, reader: ResponseReader) -> None: ...

    def abandon(self, reader: ResponseReader) -> None: ...


class ResponseReader:
    """One response as it arrives: llhttp calls the `on_…` methods, the consumer uses the others.

    The object is the iterator over the body. Chunks that were received before a failure are yielded before the failure
    is raised. Iteration does not suspend while chunks are available.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_connection",
        "_continues",
        "_given_up",
        "_head_bytes",
        "_head_only",
        "_interims",
        "_lines",
        "_parser",
        "_passed",
        "_pieces",
        "_reader",
        "_waiter",
        "_wire_bytes",
        "accept",
        "body_bytes",
        "complete",
        "early",
        "failure",
        "framing",
        "head_complete",
        "headers",
        "idle_seconds",
        "interim",
        "last",
        "length",
        "out_of_sync",
        "persistent",
        "reason",
        "remaining",
        "status",
        "switched",
        "transfer_codings",
    )

    def __init__(self, connection: ReaderConnection, *, head_only: bool) -> None:
        self._connection = connection
        self._head_only = head_only
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._given_up = False
        self._head_bytes = 0
        self._wire_bytes = 0
        self._lines = 0
        self._continues = 0
        self._parser: Any = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []  # the heads that the parser is reading, in case it rejects one
        self._interims = 0  # the number of interim response heads among them
        self._passed = 0  # interim responses that were passed on
        self._reader: HeadReader | None = None
        self.interim: Interim | None = None
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []
        self.framing = Framing.CLOSE
        self.length: int | None = None
        self.transfer_codings: bytes | None = None
        self.persistent: bool | None = None
        self.idle_seconds = NEVER
        self.remaining = 0
        self.body_bytes = 0
        self.head_complete = False
        self.complete = False
        self.out_of_sync = False
        self.last = False  # the connection is not reused, whatever the response says
        self.failure: BaseException | None = None
        self.accept = b""
        """The Sec-WebSocket-Accept value that a 101 must have; empty if no upgrade was requested."""
        self.switched = False
        self.early = b""
        """The bytes that followed the head of the 101."""

    # Callbacks of llhttp.

    def on_message_begin(self) -> None:
        if self.complete:
            self.out_of_sync = True  # a second response, which no request asked for

    def on_status(self, reason: bytes) -> None:
        if not self.head_complete:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # trailers are dropped (§5.9), or belong to an unsolicited response
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in _ABOUT_THE_CONNECTION:
            self._note(name, value)
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            # llhttp accepts only digits, up to 64 bits, and no second Content-Length, but any number of leading zeros.
            if len(value) > MAX_DIGITS:
                raise self._refuse("OriginInvalidResponseError", "a Content-Length of too many digits")
            self.length = int(value)
        elif name == b"connection":
            tokens = value.lower()
            if b"close" in tokens:
                self.persistent = False
            elif b"keep-alive" in tokens and self.persistent is None:
                self.persistent = True
        elif name == b"transfer-encoding":
            coding = value.lower()
            self.transfer_codings = coding if self.transfer_codings is None else b"several"
        elif name == b"keep-alive":
            self.idle_seconds = _promised_idle_seconds(value)

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        parser = self._parser
        version = parser.get_http_version()
        self.status = status = parser.get_status_code()
        if version not in ("1.1", "1.0"):
            raise self._refuse(
                "OriginInvalidResponseError", f"{self._line_1()}: the response is HTTP/{version}"
            )
        if not 100 <= status <= 599:
            raise self._refuse("OriginInvalidResponseError", f"{self._line_1()}: status {status}")
        if self._wire_bytes > MAX_HEAD:  # otherwise there is no need to count
            self._head_bytes += sum(len(name) + len(value) + 4 for name, value in self.headers)
            if self._head_bytes > MAX_HEAD:
                raise self._refuse("OriginHeaderTooBigError", self._too_big())
        self._lines += len(self.headers)
        if self._lines > MAX_LINES_OF_ONE and (self._lines > MAX_LINES or too_many_lines(self.headers)):
            raise self._refuse(
                "OriginHeaderTooBigError", f"more than {MAX_LINES} header lines, or too many of a name"
            )
        if status < 200:
            self._informational(status)
            return
        self.head_complete = True
        if version == "1.0":
            # Without the token, the connection closes; with a transfer coding, its framing is in doubt (RFC 9112 §6.1).
            if self.persistent is None or self.transfer_codings is not None:
                self.persistent = False
        elif self.persistent is None:
            self.persistent = True
        if self._head_only or status in (204, 304):
            self.framing = Framing.NONE
            self.complete = True
            announced = self.length or self.transfer_codings is not None
            if announced or status == 204 or (self._head_only and self.length is None):
                self.last = True  # a careless origin may send the body anyway
        elif self.transfer_codings is not None:
            if self.transfer_codings != b"chunked":
                coding = next((v for n, v in self.headers if n == b"transfer-encoding"), b"")
                raise self._refuse(
                    "OriginInvalidResponseError",
                    f"field {shown(b'Transfer-Encoding', coding)}: a transfer coding other than chunked",
                )
            self.framing = Framing.CHUNKED
        elif self.length is not None:
            self.framing = Framing.LENGTH
            self.remaining = self.length
            self.complete = self.remaining == 0
        else:
            self.framing = Framing.CLOSE
            self.persistent = False

    def on_body(self, data: bytes) -> None:
        if self.complete:
            self.out_of_sync = True  # for example, the body of a response to HEAD
            return
        self.remaining -= len(data)
        self.body_bytes += len(data)
        self._keep(data)

    def on_message_complete(self) -> None:
        if self.head_complete and not self.switched:
            self.complete = True

    def _informational(self, status: int) -> None:
        """Handle a 1xx. 103 and the like are passed on if the request wants them, one unsolicited 100 is accepted, and
        a second one is an error (§5.9)."""
        self._interims += 1
        if status == 101:
            self._switch()
            return
        if self.length is not None or self.transfer_codings is not None:
            name = "Content-Length" if self.length is not None else "Transfer-Encoding"
            raise self._refuse("OriginInvalidResponseError", f'field "{name}": status {status} has no body')
        if status == 100:
            self.last = True  # none of our requests ask for it
            self._continues += 1
            if self._continues > 1:
                raise self._refuse("OriginInvalidResponseError", "more than one 100 Continue")
        if self._parser.get_http_version() == "1.0":
            self.last = True  # HTTP/1.0 has no interim responses
        room = self._passed < MAX_INTERIM and self._wire_bytes <= MAX_HEAD
        if self.interim is not None and status != 100 and room:
            self._passed += 1
            self.interim(status, self.headers)
        self._begin_head()

    def _begin_head(self) -> None:
        """Discard what was read of a head: another head begins, or the same one is parsed again."""
        self.reason = b""
        self.headers = []
        self.length = None
        self.transfer_codings = None
        self.persistent = None
        self.idle_seconds = NEVER

    def _switch(self) -> None:
        """Handle a 101: the end of HTTP on this connection, if it answers the handshake that was sent."""
        if not self.accept:
            raise self._refuse("OriginInvalidResponseError", "101 Switching Protocols, unasked")
        fault = acceptance_fault(self.headers, self.accept)
        if not fault and self._parser.get_http_version() != "1.1":
            fault = "101 in HTTP/1.0"
        if fault:
            raise self._refuse("OriginInvalidResponseError", fault)
        self.switched = self.head_complete = True
        self.framing = Framing.NONE
        self._connection.pause()  # until another protocol takes over the connection

    def _line_1(self) -> str:
        version = self._parser.get_http_version()
        line = f"HTTP/{version} {self.status} ".encode() + self.reason
        return f"line 1 of the head, {escaped(line)}"

    def _too_big(self) -> str:
        text = f"more than {MAX_HEAD} bytes of headers"
        if self.headers:
            name, value = max(self.headers, key=lambda header: len(header[0]) + len(header[1]))
            text += f"; the longest field is {shown(name, value)}"
        return text

    def _refuse(self, kind: str, detail: str) -> OriginFailure:
        self.failure = OriginFailure(kind, 502, detail)
        return self.failure

    # Called by the connection.

    def feed(self, data: bytes) -> None:
        """Process bytes from the wire. Afterwards, `complete`, `failure` or neither is set.

        Once the head is complete, a body that is delimited by its length or by the end of the connection needs no
        parser.
        """
        if self.head_complete and self.framing is not Framing.CHUNKED:
            if self.switched:
                self.early += data
                return
            if self.framing is Framing.LENGTH:
                remaining = self.remaining
                if len(data) > remaining:
                    self.out_of_sync = True
                    data = data[:remaining]
                self.remaining = remaining - len(data)
                if self.remaining == 0:
                    self.complete = True
            self._keep(data)
            return
        self._wire_bytes += len(data)
        if self._reader is not None:
            self._repair(self._reader, data)
        elif not self._parse(data):
            return
        if self.switched and self._parser is not None:
            self._refuse("OriginInvalidResponseError", "101 that does not end HTTP")
            return
        if not self.head_complete:
            if self.failure is None and self._wire_bytes > MAX_HEAD + _BESIDE:
                self._refuse("OriginHeaderTooBigError", f"no end of the headers after {MAX_HEAD} bytes")
        elif self.complete or self.framing is not Framing.CHUNKED:
            self._parser = (
                None  # it holds our methods: a reference cycle that would wait for the garbage collector
            )
        elif self._wire_bytes > 2 * MAX_HEAD + 16 * self.body_bytes:
            self._refuse("OriginInvalidResponseError", "chunk extensions or trailers without end")

    def _parse(self, data: bytes) -> bool:
        """Pass bytes to the parser. Returns False if it rejects them for good."""
        if not self.head_complete:
            self._pieces.append(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.switched:
                self.early = data[upgrade.args[0] :]
            elif self.failure is None:
                self._refuse("OriginInvalidResponseError", f"{self._line_1()}: an upgrade, unasked")
        except httptools.HttpParserError as error:
            if self.complete:
                self.out_of_sync = True  # this response is complete; what follows it is not HTTP
            elif self.head_complete:
                if self.failure is None:
                    self._refuse("OriginInvalidResponseError", f"in the chunked body: {error}")
            elif self.failure is None:
                self._reader = reader = HeadReader(str(error))
                self._parser = None
                self._repair(reader, self._unread())
                return self.failure is None
        else:
            if self.head_complete:
                self._pieces.clear()
            return True
        self._parser = None
        return False

    def _unread(self) -> bytes:
        """The bytes of the head that the parser rejected, and what followed them."""
        data = b"".join(self._pieces).lstrip(b"\r\n")
        for _ in range(self._interims):
            data = data[data.find(b"\r\n\r\n") + 4 :].lstrip(b"\r\n")
        self._pieces.clear()
        return data

    def _repair(self, reader: HeadReader, data: bytes) -> None:
        """Read the head as far as `data` goes, as leniently as RFC 9112 allows; then pass the repaired head to the
        parser."""
        try:
            whole = reader.feed(data)
        except BadHeadError as bad:
            self._refuse("OriginInvalidResponseError", str(bad))
            return
        if not whole:
            return
        self._reader = None
        self.last = True  # two recipients may interpret it differently
        self._interims = 0
        self._pieces.clear()
        self._begin_head()
        self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(reader.head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self.switched:
                self.early = reader.rest
            elif self.failure is None:
                self._refuse("OriginInvalidResponseError", reader.refused)
            self._parser = None
            return
        self._interims = 0  # the parser has seen none of the earlier heads
        rest = reader.rest
        if rest and self.complete:
            self.out_of_sync = True
        elif rest:
            self._wire_bytes -= len(rest)  # they are counted again
            self.feed(rest)

    def end(self) -> None:
        """The origin has closed its side: the end of the body, unless something else delimits it."""
        if self.head_complete and self.framing is Framing.CLOSE:
            self.complete = True

    def _keep(self, data: bytes) -> None:
        if data and not self._given_up:
            if self._chunks and len(self._chunks[-1]) + len(data) <= SMALL:
                # An origin that sends one byte at a time must not cost one object per byte.
                self._chunks[-1] += data
            else:
                self._chunks.append(data)
            self._buffered += len(data)
            if self._buffered > HIGH_WATER:
                self._connection.pause()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, failure: BaseException) -> None:
        if self.failure is None:
            self.failure = failure
        self._parser = None
        self.wake()

    @property
    def begun(self) -> bool:
        """Whether any byte of the response has arrived."""
        return self._wire_bytes > 0

    # Called by the consumer.

    async def head(self) -> None:
        """Wait until the final response's head is complete, or raise the failure that prevented it."""
        while self.failure is None:
            if self.head_complete:
                return
            await self._wait()
        if not (self.head_complete and self._chunks):
            raise self.failure
        # The head and part of the body arrived together: the body will raise the failure.

    def whole(self) -> bytes | None:
        """The body, if all of it has arrived and none has been read; the iterator still yields it."""
        if not self.complete:
            return None
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks[0]
        if not chunks:
            return b""
        body = b"".join(chunks)
        chunks.clear()
        chunks.append(body)
        return body

    def __aiter__(self) -> ResponseReader:
        return self

    async def __anext__(self) -> bytes:
        chunks = self._chunks
        while not chunks:
            if self._given_up:
                raise OriginFailure("OriginCommError", 502, "the response was given up before")
            if self.complete:
                raise StopAsyncIteration
            if self.failure is not None:
                raise self.failure
            await self._wait()
        chunk = chunks.popleft()
        self._buffered -= len(chunk)
        if self._buffered <= LOW_WATER:
            self._connection.resume(self)
        return chunk

    async def aclose(self) -> None:
        """Release the response. If little of it is left, the rest is read; otherwise the connection is closed."""
        if self._given_up:
            return
        self._chunks.clear()
        self._buffered = 0
        self._given_up = True
        if not self.complete and self.failure is None:
            self._connection.abandon(self)

    async def _wait(self) -> None:
        self._waiter = waiter = self._connection.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None


def _promised_idle_seconds(value: bytes) -> float:
    """Seconds that an idle connection stays open according to the origin's `Keep-Alive: timeout=N`, minus a margin for
    network delay."""
    match = re.search(rb"timeout=(\d{1,6})", value)
    if match is None:
        return NEVER
    seconds = float(match[1])
    return seconds - min(1.0, seconds / 2)
