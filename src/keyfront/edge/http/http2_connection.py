"""One viewer's connection over HTTP/2: an asyncio protocol around a `Session`.

A hit that fits into the viewer's window is answered at once. Every other request has a task, which sends its response
frame by frame as the viewer's windows and the transport allow, so that the responses of a connection share it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from functools import partial
from time import perf_counter
from typing import Final, cast

import msgspec

from keyfront.edge.http.http2_request import parse
from keyfront.edge.http.http2_session import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FRAME,
    INTERNAL_ERROR,
    NO_ERROR,
    ConnectionFault,
    Session,
    Stream,
)
from keyfront.edge.http.request_body import Body
from keyfront.edge.http.shared import Response, Shared, abort_by_reset
from keyfront.edge.limits.rates import Floor
from keyfront.edge.rules import error_pages
from keyfront.edge.rules.routing import Routing, host_name
from keyfront.edge.semantics.fields import HOP_BY_HOP
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.fast_path import CachedHeaderBlock, Caller
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.stored import Stored

logger = logging.getLogger("keyfront.edge")

DRAIN_GRACE: Final = 0.5
"""Seconds between the announcement that a connection will end and its end for new requests."""
AT_ONCE: Final = 256 * 1024
"""Bytes of bodies up to which hits are answered before the viewer has accepted any of them."""
MAX_HOSTS: Final = 64
"""Hosts that a connection remembers to serve."""
MISDIRECTED: Final = "misdirected"


class _Flow:
    """The flow control of one request's body. A viewer that respects its window cannot send more than it may, so
    nothing is ever paused."""

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def pause_reading(self, reason: str) -> None:
        """The window does it."""

    def resume_reading(self, reason: str) -> None:
        """The window does it."""

    def send_continue(self) -> None:
        self._connection.send_interim(self._stream, 100, [])


class StreamBody(Body):
    """The body of a request. What its consumer takes, the viewer may send again."""

    __slots__ = ("_connection", "_stream", "floor", "since")

    def __init__(self, connection: Http2Connection, stream: Stream, *, awaited: bool, now: float) -> None:
        super().__init__(_Flow(connection, stream), awaited=awaited)
        self._connection = connection
        self._stream = stream
        self.floor = Floor()
        self.since = now

    async def __anext__(self) -> bytes:
        chunk = await super().__anext__()
        self._connection.consumed(self._stream, len(chunk))
        return chunk


class Http2Connection(asyncio.Protocol):
    """One viewer's connection, and the sink of its session."""

    tunnel = None
    """There are no WebSockets over HTTP/2 here."""

    def __init__(self, shared: Shared, caller: Caller, *, trusted: bool) -> None:
        self._shared = shared
        self._handler = shared.handler
        self._caller = caller
        self._proxies = shared.proxies if trusted else None
        self._time = asyncio.get_running_loop().time
        # A header list has another meaning when a different peer sends it, if that is a trusted proxy.
        self._about = caller.address.encode() if trusted else b""
        self._session = Session(self, self._about)
        self._transport: asyncio.Transport
        self._context: ssl.SSLContext | None = None
        self._routing: Routing | None = None
        self._hosts: set[str] = set()  # that this connection serves, according to that routing
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._bodies: dict[int, StreamBody] = {}
        self._undecided: dict[
            int, Request
        ] = {}  # without a length: the next frame shows whether there is a body
        self._writable = True
        self._closed = False
        self._waiting: set[asyncio.Future[None]] = set()  # tasks that have something to send and no room
        self._moved = 0  # bytes given to the transport
        self._floor = Floor()
        self._last_data = self._active = self._time()  # when anything arrived; when a request or response did
        self._taken = 0  # bytes that the viewer had accepted at the last check
        self._stalled = 0.0  # since when it accepts nothing, although something is waiting
        self._head_since = 0.0
        self.limit = ""

    # -- the transport's side ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        self._context = None if tls is None else tls.context
        self._shared.connections.add(self)
        self._flush()
        if self._shared.draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._shared.gone(self)
        for body in self._bodies.values():
            body.fail()
        for task in list(self._tasks.values()):
            task.cancel()
        self._wake()
        self._session.release()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self._last_data = self._time()
        try:
            self._session.receive(data)
        except ConnectionFault as fault:
            if fault.code == ENHANCE_YOUR_CALM:
                self.report("http2_flood")
            self._end(fault.code)
        except Exception:
            logger.exception("a request could not be handled")
            self._end(INTERNAL_ERROR)
        else:
            self._flush()

    def eof_received(self) -> bool:
        """The viewer has closed its half. Responses to complete requests are still sent."""
        for body in self._bodies.values():
            body.fail()
        self._session.closing = True
        return bool(self._tasks)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake()

    def _flush(self) -> None:
        data = self._session.taken()
        if data and not self._closed:
            self._moved += len(data)
            self._transport.write(data)

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    # -- the session's sink --------------------------------------------------------------------------------------------

    def repeated(self, id_: int, section: bytes, path: bytes) -> bool:
        found = self._shared.known_requests.by_bytes(section, path)
        if found is None:
            return False
        self._active = self._last_data
        self._answer(self._session.open(id_), *found)
        return True

    def request(self, stream: Stream, headers: Headers, ended: bool, section: bytes) -> None:
        self._active = self._last_data
        if ended:
            found = self._shared.known_requests.by_headers(headers, self._about, section)
            if found is not None:
                self._answer(stream, *found)
                return
        request, refusal, length, expects = parse(
            headers, self._caller, self._shared.scheme, self._proxies, has_body=not ended
        )
        if not refusal and not self._serves(request.host):
            refusal = MISDIRECTED
        if refusal:
            self._refuse(stream, self._shared.edge.unreadable(request), refusal)
            return
        if ended:
            if self._start(stream, request):
                client = "" if self._proxies is None else request.client_ip
                self._shared.known_requests.learn(headers, self._about, request, client)
            return
        stream.expected = length
        self._bodies[stream.id] = StreamBody(self, stream, awaited=expects, now=self._last_data)
        if length > 0 or expects:
            self._start(stream, request)
        else:
            self._undecided[stream.id] = request

    def _answer(self, stream: Stream, known: CachedHeaderBlock, target: str) -> None:
        """Answer a request that resembles an earlier one."""
        session, shared = self._session, self._shared
        if not self._serves(known.request.host):
            request = known.request_for(target, self._caller)
            self._refuse(stream, shared.edge.unreadable(request), MISDIRECTED)
            return
        if self._writable and session.pending < AT_ONCE:
            hit = shared.fast_path.answer(
                known, target, self._caller, session.room_of(stream), shared.hit_blocks.size
            )
            if hit is not None:
                stored, request_id, now, policy = hit
                block = shared.hit_blocks.block(stored, request_id, now, policy, known.request)
                session.respond(stream, block, stored.body)
                return
        self._start(stream, known.request_for(target, self._caller), known)

    def _serves(self, host: str) -> bool:
        """Whether the viewer may request this host over this connection (RFC 9110 section 15.5.20). A trusted proxy may
        request every host: it carries the requests of many viewers."""
        if self._proxies is not None:
            return True
        routing = self._shared.edge.routing
        if routing is not self._routing:
            self._routing = routing
            self._hosts.clear()
        if host in self._hosts:
            return True
        if not self._shared.serves_over_http2(self._context, host_name(host)):
            return False
        if len(self._hosts) < MAX_HOSTS:
            self._hosts.add(host)
        return True

    def _start(self, stream: Stream, request: Request, known: CachedHeaderBlock | None = None) -> bool:
        """Answer a request, at once or in a task. Returns False if it is refused.

        :param known: its header section, if that was parsed before.
        """
        body = self._bodies.get(stream.id)
        if body is not None:
            request = msgspec.structs.replace(request, body=body)
        exchange = self._handler.lookup(request)
        stored = exchange.hit
        if (
            stored is not None
            and self._writable
            and len(stored.body) <= self._session.room_of(stream)
            and self._session.pending < AT_ONCE
        ):
            self._send_hit(stream, exchange, stored, known)
            return True
        task = asyncio.get_running_loop().create_task(self._respond(stream, exchange))
        self._tasks[stream.id] = task
        return exchange.refusal is None

    def body(self, stream: Stream, data: bytes) -> None:
        request = self._undecided.pop(stream.id, None)
        if request is not None:
            self._start(stream, request)
        body = self._bodies.get(stream.id)
        if body is None:
            self._session.consumed(stream, len(data))
        else:
            body.since = self._last_data
            body.feed(data)

    def end(self, stream: Stream) -> None:
        request = self._undecided.pop(stream.id, None)
        if request is not None:
            del self._bodies[stream.id]  # it was empty, and so there is none
            self._start(stream, request)
            return
        body = self._bodies.get(stream.id)
        if body is not None:
            body.end()

    def gone(self, stream: Stream) -> None:
        body = self._bodies.get(stream.id)
        if body is not None:
            body.fail()
        request = self._undecided.pop(stream.id, None)
        if request is not None:
            exchange = self._shared.edge.unreadable(request)
            self._handler.log_access(exchange, 0, 0, "Error", "ClientHungUpRequest")
        task = self._tasks.get(stream.id)
        if task is not None:
            task.cancel()  # the stream counts until the task has ended
        else:
            self._bodies.pop(stream.id, None)
            self._session.finished(stream)

    def room(self) -> None:
        self._wake()

    def consumed(self, stream: Stream, size: int) -> None:
        """A body's consumer has taken a chunk."""
        self._session.consumed(stream, size)
        self._flush()

    # -- responses -----------------------------------------------------------------------------------------------------

    def _send_hit(
        self, stream: Stream, exchange: Exchange, stored: Stored, known: CachedHeaderBlock | None
    ) -> None:
        request, plan = exchange.request, exchange.plan
        body = stored.body if request.method == "GET" else b""
        policy = None if plan is None else plan.route.response_headers
        block = self._shared.hit_blocks.block(
            stored, exchange.request_id.encode(), exchange.now, policy, request
        )
        self._session.respond(stream, block, body)
        exchange.head_bytes = 9 + len(block)
        if stream.receiving:
            self._bodies.pop(stream.id, None)
            self._session.finished(stream)
        if known is None or not self._shared.fast_path.log_hit(exchange, known, self._caller):
            self._handler.log_access(exchange, stored.meta.status, len(body), "Hit", "Hit")

    def _refuse(self, stream: Stream, exchange: Exchange, reason: str) -> None:
        """Answer a request that is malformed or too large."""
        reply = self._shared.edge.refused(exchange, reason)
        body = reply.body if isinstance(reply.body, bytes) else b""
        body = body[: self._session.room_of(stream)]
        size = self._session.head(stream, reply.status, self._headers(exchange, reply), ended=not body)
        exchange.reply, exchange.head_bytes = reply, size
        if body:
            self._session.data(stream, body, ended=True)
        self._session.finished(stream)
        self._handler.log_access(exchange, reply.status, len(body), reply.x_cache, reply.detail, reason)

    def _headers(self, exchange: Exchange, reply: Reply) -> Headers:
        headers = [h for h in reply.headers if h[0] != b"content-length" and h[0] not in HOP_BY_HOP]
        if reply.length is not None and reply.status != 204:
            headers.append((b"content-length", b"%d" % reply.length))
        return headers + self._shared.identity.headers(reply.x_cache, exchange.request_id)

    async def _respond(self, stream: Stream, exchange: Exchange) -> None:
        """Answer one request that needs more than a memory lookup, up to the end of its response, and log it."""
        session, body = self._session, self._bodies.get(stream.id)
        response = Response(
            self._shared, self, exchange, body, lambda _: session.reset(stream, INTERNAL_ERROR)
        )
        try:
            async with response:
                response.reply = response.refusal() or await self._reply(stream, exchange)
                await self._write(stream, exchange, response.reply)
        finally:
            self._tasks.pop(stream.id, None)
            self._bodies.pop(stream.id, None)
            session.finished(stream)
            self._active = self._time()
            self._flush()
            if session.closing and not self._tasks:
                self._transport.close()

    async def _reply(self, stream: Stream, exchange: Exchange) -> Reply:
        exchange.interim = partial(self.send_interim, stream)
        try:
            return await self._handler.serve(exchange)
        except (ConnectionResetError, ConnectionAbortedError):
            raise
        except Exception as error:
            logger.exception("request %s failed", exchange.request_id)
            return error_pages.internal_error(error, exchange.request_id)
        finally:
            exchange.interim = None

    def send_interim(self, stream: Stream, status: int, headers: Headers) -> None:
        """Send an interim response (1xx). The final response must not have begun."""
        if not self._closed and not stream.reset:
            via = (b"via", self._shared.identity.via)
            kept = [header for header in headers if header[0] not in HOP_BY_HOP]
            self._session.head(stream, status, [*kept, via], ended=False)
            self._flush()

    async def _write(self, stream: Stream, exchange: Exchange, reply: Reply) -> None:
        """:raises ConnectionResetError: if the viewer leaves meanwhile.
        :raises RuntimeError: if the body's length differs from what the head says.
        """
        body, length = reply.body, reply.length
        bodiless = exchange.request.method == "HEAD" or reply.status in (204, 304)
        if stream.reset or self._closed:
            raise ConnectionResetError
        ended = bodiless or body == b""
        exchange.timings.first_byte = perf_counter()
        size = self._session.head(stream, reply.status, self._headers(exchange, reply), ended=ended)
        exchange.reply, exchange.head_bytes = reply, size
        if ended:
            self._flush()
            return
        if isinstance(body, bytes):
            await self._send(stream, exchange, body)
        else:
            async for piece in body:
                for chunk in piece if isinstance(piece, FileRange) else (piece,):
                    if chunk:
                        await self._send(stream, exchange, chunk)
            if length is not None and exchange.sent != length:
                raise RuntimeError(f"the body has {exchange.sent} bytes, {length} were promised")
        self._session.data(stream, b"", ended=True)
        self._flush()

    async def _send(self, stream: Stream, exchange: Exchange, data: bytes) -> None:
        at = 0
        while at < len(data):
            while not self._closed and not stream.reset:
                room = self._session.room_of(stream)
                if room and self._writable:
                    break
                await self._wait()
            if self._closed or stream.reset:
                raise ConnectionResetError
            piece = data[at : at + min(room, FRAME)]
            self._session.data(stream, piece, ended=False)
            self._flush()
            at += len(piece)
            exchange.sent += len(piece)

    async def _wait(self) -> None:
        """Wait until there may be room to send."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def report(self, limit: str) -> None:
        self._shared.edge.reached.add(limit, self._caller.address, self._time())

    def _end(self, code: int) -> None:
        """Say why the connection ends, and end it."""
        self._session.goaway(code)
        self._flush()
        self._closed = True
        for task in list(self._tasks.values()):
            task.cancel()
        self._transport.close()

    def drain(self) -> None:
        """Announce that the connection will end, and end it once its responses are sent: the worker is about to stop.
        Requests that are on their way are still accepted for DRAIN_GRACE seconds (RFC 9113 §6.8)."""
        self._session.announce_goaway()
        self._flush()
        asyncio.get_running_loop().call_later(DRAIN_GRACE, self._drained)

    def _drained(self) -> None:
        if not self._closed:
            self._session.goaway(NO_ERROR)
            self._flush()
            if not self._tasks:
                self._transport.close()

    def abort(self) -> None:
        """Close the transport immediately and discard pending data."""
        self._closed = True
        self._transport.abort()

    def _cut(self, limit: str) -> None:
        """End the connection of a viewer that is too slow, by RST: it would never see an orderly close."""
        self.limit = limit
        self.report(limit)
        abort_by_reset(self._transport)
        self.abort()

    def check(self, now: float) -> None:
        """Disconnect a peer that is idle, slow or stuck. To be called about once a second.

        :param now: the loop's time, in seconds.
        """
        limits = self._shared.limits
        unsent = self._transport.get_write_buffer_size()
        taken = self._moved - unsent
        if not unsent and not self._waiting:
            self._floor.rest()
            self._stalled = 0.0
        elif taken != self._taken or not self._stalled:
            self._stalled = now
        elif now - self._stalled > limits.write:
            self._cut("stuck_reader")
            return
        if (unsent or self._waiting) and self._floor.slow(now, taken, limits.rate, limits.write):
            self._cut("slow_reader")
            return
        self._taken = taken
        for id_, body in list(self._bodies.items()):
            self._check_upload(id_, body, now)
        if not self._session.in_head:
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = now
        elif now - self._head_since > limits.head:
            self._cut("slow_head")
            return
        if not self._tasks and not unsent and now - self._active > self._shared.idle:
            self._end(NO_ERROR)

    def _check_upload(self, id_: int, body: StreamBody, now: float) -> None:
        limits = self._shared.limits
        stream = self._session.streams.get(id_)
        if stream is None or body.ended or body.awaited or stream.unacknowledged:
            body.floor.rest()  # complete, or the origin is not ready for more
            body.since = now
            return
        limit = ""
        if now - body.since > limits.body:
            limit = "stuck_upload"
        elif body.floor.slow(now, body.total, limits.rate, limits.body):
            limit = "slow_upload"
        if limit:
            self.report(limit)
            self._session.reset(stream, CANCEL)
            self.gone(stream)
            self._flush()
