"""The response writer of one connection: sends heads and bodies as fast as the viewer reads.

A response goes to the transport piece by piece. When the transport's buffer is full (`pause`), the writer waits until
it has room (`resume`), and so does the code that fetches the body. The kernel sends file ranges directly, except over
TLS, where they must be encrypted.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

from keyfront.edge.http.response_head import Identity, head_bytes, policy_head
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.rates import Floor
from keyfront.edge.net.sendfile import send_range
from keyfront.edge.net.unsent import acknowledged, on_its_way
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.stored import Stored

JOINED: Final = 16384
"""Bytes of a stored body up to which copying it into one write costs less than writing several pieces."""
JOINED_BODY: Final = 65536
"""Bytes of any other body from which it is written separately from its head."""

_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
_CLOSE: Final = b"Connection: close\r\n"


def hit_tail(identity: Identity) -> bytes:
    """The part of a hit's head between the stored lines and the request ID."""
    return b"Connection: keep-alive\r\nX-Cache: Hit from cloudfront" + identity.prefix


class ResponseWriter:
    """Writes the responses of one connection, one after another.

    `writable` is false while the transport has no room. `sending` is true while the kernel sends a file. `closed` means
    that nothing may be written any more: any attempt to write raises a `ConnectionResetError`.

    :param encrypted: whether the transport uses TLS.
    :param tail: the `hit_tail` of the identity, which all connections share.
    """

    __slots__ = (
        "_encrypted",
        "_floor",
        "_identity",
        "_progress",
        "_room",
        "_tail",
        "_time",
        "_transport",
        "_unsent",
        "closed",
        "sending",
        "writable",
    )

    def __init__(
        self, transport: asyncio.Transport, identity: Identity, tail: bytes, *, encrypted: bool
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._tail = tail
        self._encrypted = encrypted
        self._time = asyncio.get_running_loop().time
        self._room: asyncio.Future[None] | None = None
        self._progress = 0.0  # when the viewer last accepted data
        self._unsent = 0  # bytes that were waiting for the viewer at the last check
        self._floor = Floor()
        self.writable = True
        self.sending = False
        self.closed = False

    # -- responses ---------------------------------------------------------------------------------------------------

    def write_hit(
        self,
        stored: Stored,
        request_id: bytes,
        age: bytes,
        policy: ResponseHeaders | None,
        request: Request,
        *,
        whole: bool = True,
    ) -> int:
        """Write a stored response unchanged, or as a response headers policy modifies it. This is the hot path: its
        arguments are those that the fast path already has, so that no object needs to be created to carry them.

        :param age: the line that ends the head.
        :param whole: false to write the head only.
        :returns: the size of the head's first part, in bytes.
        """
        head, body = stored.head, stored.body if whole else b""
        if policy is not None:
            head = policy_head(stored, policy, request)
        elif not head:
            head = stored.head = head_bytes(stored.meta.status, stored.meta.headers, len(stored.body))
        if len(body) <= JOINED:
            self._transport.write(b"".join((head, self._tail, request_id, age, body)))
        else:
            self._transport.writelines((head, self._tail, request_id, age, body))
        return len(head)

    async def write(self, exchange: Exchange, reply: Reply, *, keep_alive: bool) -> bool:
        """Write a response, head and body. Returns whether the connection may continue.

        :raises ConnectionResetError: if the connection closes meanwhile.
        :raises RuntimeError: if the body's length differs from what the head says.
        """
        status, body, length = reply.status, reply.body, reply.length
        bodiless = exchange.request.method == "HEAD" or status in (204, 304)
        chunked = False
        if length is None and not bodiless:
            if exchange.request.version == "1.0":
                keep_alive = False  # the body ends with the connection (RFC 9112 §6.3)
            else:
                chunked = True
        framing = _KEEP_ALIVE if keep_alive else _CLOSE
        if chunked:
            framing = b"Transfer-Encoding: chunked\r\n" + framing
        head = self.head(exchange, reply, framing, None if status == 204 else length)
        exchange.timings.first_byte = perf_counter()
        exchange.reply, exchange.head_bytes = reply, len(head)
        if isinstance(body, bytes):
            if bodiless:
                body = b""
            if len(body) < JOINED_BODY:
                self._transport.write(head + body)
            else:
                self._transport.write(head)
                self._transport.write(body)
            if not self.writable:
                await self.drain()
            exchange.sent = len(body)
            return keep_alive
        self._transport.write(head)
        if bodiless:
            return keep_alive
        async for piece in body:
            if not piece:
                continue
            if isinstance(piece, FileRange):
                if chunked:
                    self._transport.write(b"%x\r\n" % len(piece))
                await self._send_file(exchange, piece)
                if chunked:
                    self._transport.write(b"\r\n")
            else:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                exchange.sent += len(piece)
            if not self.writable:
                await self.drain()
            if self.closed:
                raise ConnectionResetError
        if chunked:
            self._transport.write(b"0\r\n\r\n")
        elif length is not None and exchange.sent != length:
            raise RuntimeError(f"the body has {exchange.sent} bytes, {length} were promised")
        return keep_alive

    def write_refusal(self, exchange: Exchange, reply: Reply) -> int:
        """Write the last response of a connection, for a request that was refused. Returns the number of body bytes."""
        body = reply.body if isinstance(reply.body, bytes) else b""
        head = self.head(exchange, reply, _CLOSE, len(body))
        exchange.reply, exchange.head_bytes = reply, len(head)
        self._transport.write(head + body)
        return len(body)

    def write_interim(self, status: int, headers: Headers) -> None:
        """Write an interim response (1xx). The final response to the same request must not have begun."""
        if not self.closed:
            via = (b"via", self._identity.via)
            self._transport.write(head_bytes(status, [*headers, via], None) + b"\r\n")

    def write_continue(self) -> None:
        """Write 100 Continue. The final response has not begun, because it needs the body."""
        if not self.closed:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def head(self, exchange: Exchange, reply: Reply, framing: bytes, length: int | None) -> bytes:
        """The complete head of a response.

        :param framing: the lines that concern this connection only.
        :param length: the Content-Length, or None to omit it.
        """
        return b"".join(
            (
                head_bytes(reply.status, reply.headers, length),
                framing,
                self._identity.lines(reply.x_cache, exchange.request_id),
            )
        )

    async def _send_file(self, exchange: Exchange, piece: FileRange) -> None:
        """Send a file range: by the kernel once everything before it is sent, or through this process over TLS."""
        if self._encrypted:
            for chunk in piece:
                self._transport.write(chunk)
                exchange.sent += len(chunk)
                if not self.writable:
                    await self.drain()
            return

        def moved(sent: int) -> None:
            exchange.sent += sent
            self.touch()

        self.sending = True
        self.touch()
        self._transport.set_write_buffer_limits(high=0)
        try:
            if not self.writable:
                await self.drain()
            await send_range(self._transport, piece, moved)
        finally:
            self.sending = False
            if not self._transport.is_closing():
                self._transport.set_write_buffer_limits()

    # -- back-pressure -----------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait until the transport has room.

        :raises ConnectionResetError: if the connection is closed.
        """
        while not self.writable and not self.closed:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self.closed:
            raise ConnectionResetError

    def pause(self) -> None:
        """The transport has no room."""
        self.writable = False
        self._progress = self._time()

    def resume(self) -> None:
        """The transport has room again."""
        self.writable = True
        if self._room is not None:
            self._wake()

    def close(self) -> None:
        """Allow no further writes, and wake up all tasks that wait for room."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- the viewer's pace -------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Restart the count of seconds without progress."""
        self._progress = self._time()

    def idle_for(self, now: float) -> float:
        """Seconds since the last progress."""
        return now - self._progress

    @property
    def pending(self) -> bool:
        """Whether any written data is still buffered in this process."""
        return self.sending or self._transport.get_write_buffer_size() > 0

    def overdue(self, now: float, limits: Limits) -> str:
        """The name of the limit that a viewer has reached by accepting too little of the pending data, or "". To be
        called at every check, even if no data is pending.

        `stuck_reader`: it has accepted nothing for `limits.write` seconds. `slow_reader`: it has accepted less than
        `limits.rate` bytes per second over as many seconds, although more was pending.
        """
        unsent = self._transport.get_write_buffer_size()
        if not unsent and not self.sending:
            self._floor.rest()
            self._unsent = 0
            return ""
        unsent += on_its_way(self._transport)
        if unsent != self._unsent:
            self._progress = now
        elif now - self._progress > limits.write:
            return "stuck_reader"
        self._unsent = unsent
        taken = acknowledged(self._transport)
        if taken is None:
            self._floor.rest()
        elif self._floor.slow(now, taken, limits.rate, limits.write, waiting=unsent):
            return "slow_reader"
        return ""
