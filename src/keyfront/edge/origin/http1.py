"""HTTP/1.1 as a client: one connection to an origin, one response as it arrives.

Parsing is llhttp's (httptools), strict. A head that it refuses is read once more as RFC 9112 allows (`response_head`).
This module decides what the findings mean, and holds three rules:

1. Framing is strict (RFC 9112 §6.3). What two readers could understand differently is refused: Content-Length
   beside Transfer-Encoding, several lengths, any transfer coding but a single `chunked`, a second 100, a 101 that
   does not accept the WebSocket handshake that was sent.
2. A connection is used again only when nothing is in doubt: the request had no body, the response ended by its
   own framing and announced no body that did not come, nothing came after it, and nobody said close. Bytes on an
   idle connection close it. Decision 0026 says why.
3. Nothing waits without a bound. One timer per connection watches the earliest deadline. It moves lazily: a
   deadline that only becomes later costs an assignment, no timer.

Where the time is the consumer's (reading is paused because its buffer is full) or the viewer's (its request
body has not arrived yet) the origin's clock stands still; only the response completion timeout runs on.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import termios
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Any, Final, Protocol, cast

import httptools

from keyfront.edge.origin.lenient_head import BadHeadError, HeadReader, escaped, shown
from keyfront.edge.semantics.header_limits import MAX_LINES, MAX_LINES_OF_ONE, too_many_lines
from keyfront.edge.semantics.websocket import acceptance_fault
from keyfront.edge.types.messages import Header, Headers
from keyfront.errors import OriginFailure

MAX_DIGITS: Final = 32
"""Characters of a Content-Length."""

MAX_HEAD: Final = 20_480
"""Bytes of all header lines of a response, informational ones included (cloudfront-semantics §3.3)."""

_BESIDE: Final = 1024
"""Bytes of a head that are in no header line: status lines, ends, blanks around values."""

HIGH_WATER: Final = 256 * 1024
"""Unread body bytes above which the origin is not read any more; one read of the loop may come on top."""
SMALL: Final = 4096
"""Bytes up to which a piece of a body is joined to the one before it."""
LOW_WATER: Final = 64 * 1024
"""Unread body bytes at which reading goes on."""
MAX_INTERIM: Final = 16
"""Interim answers (1xx) of one request that are passed on. Further ones are read and dropped, up to MAX_HEAD bytes."""
DRAIN: Final = 64 * 1024
"""An abandoned response is read to its end if at most this many bytes are missing; else it is cut."""
DRAIN_TIME: Final = 1.0
"""Seconds that an abandoned response may take to arrive."""

NEVER: Final = float("inf")

# What frames a message or speaks about the connection is ours alone to send.
_FRAMING: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_ABOUT_THE_CONNECTION: Final = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"transfer-encoding"}
)
_NOT_IN_TARGET: Final = re.compile(r"[^\x21-\x7e\x80-\xff]")
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUES: Final = bytes([*range(9), 11, 12, *range(14, 32), 127])
"""Control characters that no field's value may hold (RFC 9110 §5.5). Line ends are counted, tabs are allowed."""
_field_names: set[bytes] = set()
"""Field names known to be tokens, so that the pattern is matched once for each."""


def request_head(
    method: str,
    target: str,
    headers: Headers,
    *,
    has_body: bool = False,
    length: int | None = None,
    websocket: bool = False,
) -> bytes:
    """The bytes of a request's head: `headers` as they are, then framing and Connection (§5.8), for a WebSocket's
    opening handshake with Upgrade.

    Framing headers among `headers` are left out. `length` is the body's size in bytes; a body without one is
    sent chunked. A method that usually has a body says so when it has none (RFC 9110 §8.6). A request with a body
    is the last one on its connection and says so: an origin that does not read the body would take it for the next
    request (decision 0026).

    :raises OriginFailure: OriginWriteError 502 if a name or a value would break the head's lines, or an origin could
        read the lines after it differently: nothing is sent then.
    """
    if _NOT_IN_TARGET.search(target) or not (method in _METHODS or _TOKEN.fullmatch(method)):
        raise OriginFailure(
            "OriginWriteError", 502, "the method or the target cannot stand in a request line"
        )
    lines = []
    for header in headers:
        name = header[0]
        if name in _FRAMING:
            continue
        if name not in _field_names:
            _check_field_name(name)
        lines.append(b"%b: %b\r\n" % header)
    if has_body:
        lines.append(
            b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
        )
    elif method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: 0\r\n")
    if websocket:
        lines += [b"upgrade: websocket\r\n", b"connection: Upgrade\r\n\r\n"]
    else:
        lines.append(b"connection: close\r\n\r\n" if has_body else b"connection: Keep-Alive\r\n\r\n")
    fields = b"".join(lines)
    if (
        fields.count(b"\n") != len(lines) + 1
        or fields.count(b"\r") != len(lines) + 1
        or len(fields.translate(None, _NOT_IN_VALUES)) != len(fields)
    ):
        raise OriginFailure(
            "OriginWriteError", 502, "a header's value holds a line break or a control character"
        )
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1") + fields


def _check_field_name(name: bytes) -> None:
    """:raises OriginFailure: OriginWriteError 502 if it is no token (RFC 9110 §5.6.2)."""
    if not _FIELD_NAME.fullmatch(name):
        shown = ascii(name[:60].decode("latin-1"))
        raise OriginFailure("OriginWriteError", 502, f"{shown} cannot be a header's name")
    if len(_field_names) < 1024 and len(name) <= 64:
        _field_names.add(name)


class Framing(Enum):
    """How a response's body ends (RFC 9112 §6.3)."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3


Interim = Callable[[int, Headers], None]
"""Takes an interim answer: its status and its headers as the origin sent them. It must not raise."""


class ConnectionOwner(Protocol):
    """Who owns a connection: told when it is free again, when it is gone, and what was wrong with an answer."""

    def freed(self, connection: Connection) -> None: ...

    def gone(self, connection: Connection) -> None: ...

    def refused(self, failure: BaseException) -> None: ...


class ResponseReader:
    """One response as it arrives: llhttp calls the `on_…` half, the consumer uses the rest.

    It is the body's iterator. Chunks already received are yielded before a failure is raised. Reading yields
    without suspending while chunks are there.
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
        "in_doubt",
        "interim",
        "last",
        "length",
        "persistent",
        "reason",
        "remaining",
        "status",
        "switched",
        "transfer_codings",
    )

    def __init__(self, connection: Connection, *, head_only: bool) -> None:
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
        self._pieces: list[bytes] = []  # of heads that the parser reads, should it refuse one
        self._interims = 0  # how many heads of interim answers are among them
        self._passed = 0  # interim answers that were passed on
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
        self.in_doubt = False
        self.last = False  # the connection is not used again, whatever the response says
        self.failure: BaseException | None = None
        self.accept = b""
        """The Sec-WebSocket-Accept that a 101 must have; empty where no upgrade was asked for."""
        self.switched = False
        self.early = b""
        """What came behind the head of the 101."""

    # What llhttp finds.

    def on_message_begin(self) -> None:
        if self.complete:
            self.in_doubt = True  # a second response that nobody asked for

    def on_status(self, reason: bytes) -> None:
        if not self.head_complete:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # trailers are dropped (§5.9), or belong to a response that nobody asked for
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in _ABOUT_THE_CONNECTION:
            self._note(name, value)
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            # llhttp lets digits pass only, up to 64 bits, and no second one; but any number of zeros before them.
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
        if self._wire_bytes > MAX_HEAD:  # else no need to count
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
            # Without the token it closes; with a transfer coding its framing is in doubt (RFC 9112 §6.1).
            if self.persistent is None or self.transfer_codings is not None:
                self.persistent = False
        elif self.persistent is None:
            self.persistent = True
        if self._head_only or status in (204, 304):
            self.framing = Framing.NONE
            self.complete = True
            announced = self.length or self.transfer_codings is not None
            if announced or status == 204 or (self._head_only and self.length is None):
                self.last = True  # a careless origin may send the body after all
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
            self.in_doubt = True  # the body of an answer to HEAD, say
            return
        self.remaining -= len(data)
        self.body_bytes += len(data)
        self._keep(data)

    def on_message_complete(self) -> None:
        if self.head_complete and not self.switched:
            self.complete = True

    def _informational(self, status: int) -> None:
        """1xx: 103 and the like are passed on to whoever wants them, one 100 may come unasked, a second is an error
        (§5.9)."""
        self._interims += 1
        if status == 101:
            self._switch()
            return
        if self.length is not None or self.transfer_codings is not None:
            name = "Content-Length" if self.length is not None else "Transfer-Encoding"
            raise self._refuse("OriginInvalidResponseError", f'field "{name}": status {status} has no body')
        if status == 100:
            self.last = True  # no request of ours asks for it
            self._continues += 1
            if self._continues > 1:
                raise self._refuse("OriginInvalidResponseError", "more than one 100 Continue")
        if self._parser.get_http_version() == "1.0":
            self.last = True  # HTTP/1.0 has no such responses
        room = self._passed < MAX_INTERIM and self._wire_bytes <= MAX_HEAD
        if self.interim is not None and status != 100 and room:
            self._passed += 1
            self.interim(status, self.headers)
        self._begin_head()

    def _begin_head(self) -> None:
        """Forget what was read of a head: another one begins, or the same is read anew."""
        self.reason = b""
        self.headers = []
        self.length = None
        self.transfer_codings = None
        self.persistent = None
        self.idle_seconds = NEVER

    def _switch(self) -> None:
        """101: the end of HTTP on this connection, if it is the answer to the handshake that was sent."""
        if not self.accept:
            raise self._refuse("OriginInvalidResponseError", "101 Switching Protocols, unasked")
        fault = acceptance_fault(self.headers, self.accept)
        if not fault and self._parser.get_http_version() != "1.1":
            fault = "101 in HTTP/1.0"
        if fault:
            raise self._refuse("OriginInvalidResponseError", fault)
        self.switched = self.head_complete = True
        self.framing = Framing.NONE
        self._connection.pause()  # until somebody takes the connection over

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

    # What the connection brings.

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire. Afterwards `complete`, `failure` or neither is set.

        Once the head is over, a body framed by length or by the end of the connection needs no parser.
        """
        if self.head_complete and self.framing is not Framing.CHUNKED:
            if self.switched:
                self.early += data
                return
            if self.framing is Framing.LENGTH:
                remaining = self.remaining
                if len(data) > remaining:
                    self.in_doubt = True
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
            self._parser = None  # it holds our methods: a circle that would wait for the garbage collector
        elif self._wire_bytes > 2 * MAX_HEAD + 16 * self.body_bytes:
            self._refuse("OriginInvalidResponseError", "chunk extensions or trailers without end")

    def _parse(self, data: bytes) -> bool:
        """Give bytes to the parser. False: it refuses them for good."""
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
                self.in_doubt = True  # this response is whole; what follows it is not HTTP
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
        """The bytes of the head that the parser has refused, and what came after them."""
        data = b"".join(self._pieces).lstrip(b"\r\n")
        for _ in range(self._interims):
            data = data[data.find(b"\r\n\r\n") + 4 :].lstrip(b"\r\n")
        self._pieces.clear()
        return data

    def _repair(self, reader: HeadReader, data: bytes) -> None:
        """Read the head as far as `data` goes, as RFC 9112 allows; then let the parser have what it says."""
        try:
            whole = reader.feed(data)
        except BadHeadError as bad:
            self._refuse("OriginInvalidResponseError", str(bad))
            return
        if not whole:
            return
        self._reader = None
        self.last = True  # two readers may understand it differently
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
        self._interims = 0  # the parser has none of what came before
        rest = reader.rest
        if rest and self.complete:
            self.in_doubt = True
        elif rest:
            self._wire_bytes -= len(rest)  # they are counted again
            self.feed(rest)

    def end(self) -> None:
        """The origin has closed its side: the end of the body if nothing else marks it."""
        if self.head_complete and self.framing is Framing.CLOSE:
            self.complete = True

    def _keep(self, data: bytes) -> None:
        if data and not self._given_up:
            if self._chunks and len(self._chunks[-1]) + len(data) <= SMALL:
                # An origin that sends byte by byte must not cost an object for each.
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

    # What the consumer asks.

    async def head(self) -> None:
        """Wait until the final response's head is complete, or raise what prevented it."""
        while self.failure is None:
            if self.head_complete:
                return
            await self._wait()
        if not (self.head_complete and self._chunks):
            raise self.failure
        # The head and a part of the body arrived together: the body will tell.

    def whole(self) -> bytes | None:
        """The body, if all of it has arrived and none was read; the iterator still yields it."""
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
        """Let go of the response; what is left of it is read if it is little, else the connection closes."""
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
    """How long an idle connection stays open by the origin's `Keep-Alive: timeout=N`, less some travel."""
    match = re.search(rb"timeout=(\d{1,6})", value)
    if match is None:
        return NEVER
    seconds = float(match[1])
    return seconds - min(1.0, seconds / 2)


class Connection(asyncio.Protocol):
    """A connection to an origin. It serves one request at a time; see the module for when it serves another.

    `idle_since` is the loop's time when it became free.
    """

    def __init__(self, keeper: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._incoming: ResponseReader | None = None
        self._sender: asyncio.Task[None] | None = None
        self._sent = True
        self._blocked: asyncio.Future[None] | None = None
        self._writable = True
        self._paused = False
        self._closed = False
        self._read_timeout = 0.0
        self._keepalive_timeout = 0.0
        self._deadline = NEVER
        self._completion = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    @property
    def usable(self) -> bool:
        """Free, open, and nothing came in since the last response."""
        return not self._closed and self._incoming is None

    @property
    def has_unread(self) -> bool:
        """Whether the kernel holds bytes from the origin that the loop has not read yet. On a free connection they
        answer nothing that was asked."""
        transport = self._transport
        if transport is None:
            return False
        try:
            handle = transport.get_extra_info("socket").fileno()
            return any(fcntl.ioctl(handle, termios.FIONREAD, b"\0\0\0\0"))
        except (OSError, AttributeError):
            return False

    def ask(
        self,
        head: bytes,
        *,
        head_only: bool,
        body: AsyncIterator[bytes] | None,
        length: int | None,
        read_timeout: float,
        keepalive_timeout: float,
        completion: float,
        interim: Interim | None = None,
    ) -> ResponseReader:
        """Send a request; the response arrives in what is returned, and interim answers before it in `interim`.

        Times are seconds, `completion` is a moment of the loop's clock. A body is sent by a task of its own
        while the response is awaited.
        """
        incoming = ResponseReader(self, head_only=head_only)
        transport = self._transport
        if self._closed or transport is None:
            incoming.fail(OriginFailure("OriginCommError", 502, "closed by the origin before it was asked"))
            return incoming
        self._incoming = incoming
        self._read_timeout = read_timeout
        self._keepalive_timeout = keepalive_timeout
        self._completion = completion
        incoming.last = body is not None  # the origin may not read it, and then answers it as a request
        incoming.interim = interim
        transport.write(head)
        if body is None:
            self._watch(self.loop.time() + read_timeout)
        else:
            self._sent = False
            self._watch(NEVER)
            self._sender = self.loop.create_task(self._send(incoming, transport, body, length))
        return incoming

    async def _send(
        self,
        incoming: ResponseReader,
        transport: asyncio.Transport,
        body: AsyncIterator[bytes],
        length: int | None,
    ) -> None:
        """Send the body with back-pressure. If it breaks off (the viewer left), so does the request."""
        write = transport.write
        left = length
        try:
            async for chunk in body:
                if not chunk:
                    continue
                if left is None:
                    write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                else:
                    left -= len(chunk)
                    if left < 0:
                        raise OriginFailure("OriginWriteError", 502, "the request body exceeds its length")
                    write(chunk)
                if not self._writable:
                    await self._drained()
                if left == 0:
                    break
            if left:
                raise OriginFailure("OriginWriteError", 502, "the request body is shorter than its length")
            if left is None:
                write(b"0\r\n\r\n")
            if not self._writable:
                await self._drained()
        except asyncio.CancelledError:
            if not self._closed:  # not we, but the body was cancelled
                self.break_off(
                    OriginFailure("OriginWriteError", 502, "the request body was cancelled"), incoming
                )
            raise
        except BaseException as error:
            # Whatever the viewer's side raised belongs to whoever awaits the response.
            self.break_off(error, incoming)
            if not isinstance(error, Exception):
                raise
            return
        self._sent = True
        self._sender = None
        if self._incoming is incoming and not self._paused:
            self._watch(self.loop.time() + self._read_timeout)

    async def _drained(self) -> None:
        self._watch(self.loop.time() + self._read_timeout)
        self._blocked = self.loop.create_future()
        try:
            await self._blocked
        finally:
            self._blocked = None
        self._watch(NEVER)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        incoming = self._incoming
        if incoming is None:
            self.abort()  # bytes that answer no request: the next response could not be trusted
            return
        if self._deadline != NEVER:  # else nothing is expected of the origin now
            self._deadline = self.loop.time() + self._read_timeout
        incoming.feed(data)
        if incoming.complete:
            self._finish(incoming)
        elif incoming.failure is not None:
            self._keeper.refused(incoming.failure)
            self.abort()
        incoming.wake()

    def eof_received(self) -> bool | None:
        incoming = self._incoming
        if incoming is not None:
            incoming.end()
            if incoming.complete:
                self._finish(incoming)
                incoming.wake()
        elif not self._closed:
            self.close()  # an idle connection
        return None  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        incoming = self._incoming
        if incoming is not None:
            why = "reset" if error is not None else "closed"
            if not self._sent and not incoming.head_complete:
                failure = OriginFailure(
                    "OriginWriteError", 502, f"{why} by the origin while the request was sent"
                )
            elif not incoming.head_complete:
                failure = OriginFailure(
                    "OriginCommError", 502, f"{why} by the origin before its answer was whole"
                )
            else:
                failure = OriginFailure("OriginCommError", 502, f"{why} by the origin within the body")
            self._incoming = None
            incoming.fail(failure)
        self._close_down()
        self._keeper.gone(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        blocked = self._blocked
        if blocked is not None and not blocked.done():
            blocked.set_result(None)

    # Reading as fast as the consumer.

    def pause(self) -> None:
        if not self._paused and self._transport is not None and not self._closed:
            self._paused = True
            self._deadline = NEVER
            self._transport.pause_reading()

    def resume(self, incoming: ResponseReader) -> None:
        if self._paused and incoming is self._incoming:
            self._read_on()
            if self._sent:
                self._watch(self.loop.time() + self._read_timeout)

    def _read_on(self) -> None:
        self._paused = False
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    # A switch to another protocol.

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, bool] | None:
        """Let `protocol` have this connection, which the origin has switched with a 101. Returns the transport, on
        which reading is paused, what came behind the 101, and whether it can be written to now; None if it is closed.

        The new protocol minds the time from now on, and says `connection_lost` to this object in the end.
        """
        incoming, transport = self._incoming, self._transport
        if self._closed or transport is None or incoming is None or not incoming.switched:
            return None
        self._incoming = None
        self._deadline = self._completion = NEVER
        transport.set_protocol(protocol)
        return transport, incoming.early, self._writable

    # The end of a request.

    def _finish(self, incoming: ResponseReader) -> None:
        """The response is whole: be free again, or close if anything is in doubt."""
        self._incoming = None
        if incoming.in_doubt or not self._sent or self._closed:
            self.abort()
            return
        if incoming.last or not incoming.persistent:
            self.close()
            return
        if self._paused:
            self._read_on()
        self._completion = NEVER
        now = self.loop.time()
        self.idle_since = now
        seconds = min(self._keepalive_timeout, incoming.idle_seconds)
        if seconds <= 0.0:
            self.close()
            return
        self._watch(now + seconds)
        self._keeper.freed(self)

    def abandon(self, incoming: ResponseReader) -> None:
        """Nobody wants the rest of this response."""
        if incoming is not self._incoming:
            return
        if incoming.framing is not Framing.LENGTH or incoming.remaining > DRAIN or not self._sent:
            self.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"))
            return
        if self._paused:
            self._read_on()
        self._completion = min(self._completion, self.loop.time() + DRAIN_TIME)
        self._watch(self.loop.time() + self._read_timeout)

    def break_off(self, reason: BaseException, asked: ResponseReader | None = None) -> None:
        """End the connection and whatever waits for it. If `asked` is given, only while it serves that: who awaits a
        response may hear of its end, and be cancelled, after the connection has gone on to another one."""
        incoming = self._incoming
        if asked is not None and asked is not incoming:
            return
        self._incoming = None
        self.abort()
        if incoming is not None:
            incoming.fail(reason)

    def close(self) -> None:
        """Close in good order: what was written is still sent."""
        self._close_down()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._close_down()
        if self._transport is not None:
            self._transport.abort()

    def _close_down(self) -> None:
        self._closed = True
        self._deadline = self._completion = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = NEVER
        sender = self._sender
        if sender is not None:
            self._sender = None
            if sender is not asyncio.current_task(self.loop):
                sender.cancel()

    # Time.

    def _watch(self, deadline: float) -> None:
        """Let `deadline` be the next moment at which something must have happened."""
        self._deadline = deadline
        due = deadline if deadline < self._completion else self._completion
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        now = self.loop.time()
        if self._completion <= now:
            self.break_off(OriginFailure("OriginCommError", 504, "the response completion timeout passed"))
        elif self._deadline <= now:
            if self._incoming is None:
                self.close()
            elif not self._sent:
                self.break_off(
                    OriginFailure("OriginWriteError", 504, "the origin stopped reading the request")
                )
            else:
                self.break_off(OriginFailure("OriginReadError", 504, f"silent for {self._read_timeout:g} s"))
        else:
            self._watch(self._deadline)
