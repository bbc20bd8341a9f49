"""One viewer's connection over HTTP/1.1: an asyncio protocol between a parser and a writer. Decision 0001 says why the
shell is our own.

`RequestParser` turns bytes into requests, and `ResponseWriter` turns responses into bytes. This module adds order and
limits: responses are sent in the order of their requests; a peer that is slow, stuck or sends too much is disconnected;
a viewer that stops reading pauses the origin. A hit is answered inside the parser's callback. Anything else runs in one
task per connection, and the requests that arrive meanwhile wait in `_queue`.

A connection's state (`connection_state`) determines what it may do. The state alone decides whether the fast path is
open, so a packet that is answered there costs one comparison.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from time import perf_counter
from typing import Final, cast

from keyfront.edge.http.connection_state import (
    BUSY,
    CLOSED,
    CLOSING,
    ENDING,
    IDLE,
    LINGERING,
    MOVES,
    OPENING,
    TUNNEL,
    IllegalMove,
    State,
)
from keyfront.edge.http.http2_connection import Http2Connection
from keyfront.edge.http.request_body import Body
from keyfront.edge.http.request_parser import BETWEEN, BLANK_LINES, HEAD, RequestParser
from keyfront.edge.http.request_target import MAX_TARGET, in_origin_form
from keyfront.edge.http.response_writer import ResponseWriter
from keyfront.edge.http.shared import HUNG_UP, Response, Shared, abort_by_reset
from keyfront.edge.http.trusted_proxies import address_of
from keyfront.edge.limits.rates import Floor
from keyfront.edge.net.tunnel import LINGER, Tunnel
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.semantics.websocket import WEBSOCKET
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.fast_path import CachedHeaderBlock, Caller, aged
from keyfront.edge.types.messages import Reply, Request, Upstream
from keyfront.edge.types.stored import Stored
from keyfront.errors import OriginFailure, clear_traceback

logger = logging.getLogger("keyfront.edge")

MAX_QUEUE: Final = 32
"""Requests that may be queued on a connection before it is no longer read."""
MAX_QUEUE_BYTES: Final = 64 * 1024
"""Bytes of their heads that may be queued."""
DRAIN_GRACE: Final = 0.5
"""Seconds that a connection of a worker that stops waits for a request that may be on its way."""


class Connection(asyncio.Protocol):
    """One viewer's connection. It is the sink of its parser, and the `Gate` of its TLS transport."""

    __slots__ = (
        "_accepted",
        "_caller",
        "_counted_as",
        "_eof",
        "_handler",
        "_last_accepted",
        "_last_data",
        "_parser",
        "_paused_for",
        "_peer_ip",
        "_queue",
        "_queued_bytes",
        "_received",
        "_refusal",
        "_section_prefix",
        "_shared",
        "_state",
        "_task",
        "_time",
        "_transport",
        "_trusted",
        "_upload_floor",
        "_writer",
        "limit",
        "tunnel",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._handler = shared.handler
        self._time = asyncio.get_running_loop().time
        self._state = OPENING
        # Set in `connection_made`:
        self._transport: asyncio.Transport
        self._parser: RequestParser
        self._writer: ResponseWriter
        self._caller: Caller
        self._peer_ip = ""
        self._trusted = False
        self._section_prefix = (
            b""  # for header sections that have another meaning when a different peer sends them
        )
        self._counted_as: str | None = None  # the name under which the connection is counted
        self._queue: deque[tuple[Request, bool, Body | None]] = deque()
        self._queued_bytes = 0  # of their heads
        self._task: asyncio.Task[None] | None = None
        self._paused_for: set[str] = set()  # the reasons not to read
        self._refusal = ""  # how the connection ends once everything before it is answered
        self._eof = False  # the viewer has closed its half
        self.limit = ""  # the limit for which the connection was aborted
        self._upload_floor = Floor()
        self._received = False  # whether a packet has arrived on the fast path since the last check
        self._last_data = 0.0
        self._accepted = 0  # requests accepted since this was last reset to 0
        self._last_accepted: Request | None = None  # the last request that was not refused immediately
        self.tunnel: Tunnel | None = None  # the WebSocket that uses the transport

    def _move(self, state: State) -> None:
        """Change the state.

        :raises IllegalMove: if `MOVES` does not contain this transition.
        """
        if state not in MOVES[self._state]:
            raise IllegalMove(self._state, state)
        self._state = state

    def _leave_idle(self) -> None:
        if self._state is IDLE:
            self._move(BUSY)

    def _return_to_idle(self) -> None:
        """Open the fast path to the next request, unless something stands in its way."""
        if (
            self._state is BUSY
            and self._task is None
            and self._parser.stage is BETWEEN
            and self._writer.writable
            and not (self._queue or self._paused_for or self._shared.draining)
        ):
            self._move(IDLE)

    # -- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        shared = self._shared
        peer, tls = transport.get_extra_info("peername"), transport.get_extra_info("ssl_object")
        self._peer_ip = address = address_of(transport)
        self._trusted = shared.proxies.trusts(address)
        if self._trusted:
            self._section_prefix = address.encode() + b" "
        cipher = None if tls is None else (tls.version() or "", tls.cipher()[0])
        self._caller = Caller(address, peer[1] if peer else 0, cipher)
        if tls is not None and shared.scheme == "https" and tls.selected_alpn_protocol() == "h2":
            # This object remains the gate of the transport.
            other = Http2Connection(shared, self._caller, trusted=self._trusted)
            self._transport.set_protocol(other)
            other.connection_made(transport)
            return
        proxies = shared.proxies if self._trusted else None
        self._parser = RequestParser(self, self._caller, shared.scheme, proxies)
        self._writer = ResponseWriter(
            self._transport, shared.identity, shared.hit_tail, encrypted=tls is not None
        )
        if not self.admit(transport):
            self.abort()
            return
        self._last_data = self._time()
        shared.connections.add(self)
        self._move(IDLE)
        if shared.draining:
            self.drain()

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count the connection, unless there are too many. A trusted proxy carries connections of many viewers, so its
        own connections count only toward the total."""
        viewers = self._shared.viewers
        if viewers is None or self._counted_as is not None:
            return True
        self._peer_ip = address = address_of(transport)
        name = self._shared.proxies.counted_as(address)
        limit = viewers.connections.enter(name)
        if limit:
            self.report(limit)
            return False
        self._counted_as = name
        return True

    def leave(self) -> None:
        viewers, name = self._shared.viewers, self._counted_as
        if viewers is not None and name is not None:
            self._counted_as = None
            viewers.connections.leave(name)

    def late(self) -> None:
        self.report("slow_handshake")

    def report(self, limit: str) -> None:
        """Count and log that the viewer has reached a limit."""
        self._shared.edge.reached.add(limit, self._peer_ip, self._time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        if self._state is not CLOSED:
            self._move(CLOSED)
        self._parser.close()
        self._writer.close()
        self._shared.gone(self)
        self._queue.clear()
        self._last_accepted = None
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._state is IDLE:
            self._received = True
            end = data.find(b"\r")
            if data.startswith(b"GET /") and data[end - 9 : end] == b" HTTP/1.1":
                section = self._section_prefix + data[end:] if self._section_prefix else data[end:]
                fast_path = self._shared.fast_path
                found = fast_path.sections.get(section)
                raw = data[4 : end - 9]
                target = raw.decode("latin-1")
                if found is not None:
                    hit = fast_path.answer(found, target, self._caller)
                    if hit is not None:
                        stored, request_id, now, policy = hit
                        self._writer.write_hit(stored, request_id, aged(stored, now), policy, found.request)
                        return
                    if len(raw) <= MAX_TARGET and in_origin_form(raw):
                        self._handle_known_request(found, target)
                        return
                else:
                    self._accepted = 0
                    self._last_accepted = None
                    self._parse(data)
                    self._learn(section, target)
                    return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._state >= LINGERING:
            return
        self._last_data = now = self._time()
        self._parser.feed(data, now)
        if self._state is BUSY:
            self._return_to_idle()
        elif self._parser.stage is not BETWEEN:
            self._leave_idle()

    def _learn(self, section: bytes, target: str) -> None:
        """Remember a header section, if it was all of a single request for this target that was not refused."""
        request = self._last_accepted
        if (
            request is not None
            and self._accepted == 1
            and request.target == target
            and request.body is None
            and request.version == "1.1"
            and not request.upgrade
            and self._parser.stage is BETWEEN
        ):
            self._shared.fast_path.learn(section, request, request.client_ip if self._trusted else "")

    def _handle_known_request(self, section: CachedHeaderBlock, target: str) -> None:
        """Answer a request that needs no further parsing."""
        self._last_data = self._time()
        exchange = self._handler.lookup(section.request_for(target, self._caller))
        stored = exchange.hit
        if stored is None:
            self._run(exchange, True, None)
            return
        self._write_hit(exchange, stored)
        if not self._shared.fast_path.log_hit(exchange, section, self._caller):
            self._handler.log_access(exchange, 200, len(stored.body), "Hit", "Hit")

    def eof_received(self) -> bool:
        """The viewer has closed its half, but may still be waiting for its responses."""
        self._eof = True
        if self._state is IDLE or self._state is BUSY:
            self._move(ENDING)
        body = self._parser.body
        if body is not None:
            body.fail()
            if not self._refusal:
                return False
        return self._task is not None or bool(self._queue)

    def pause_writing(self) -> None:
        self._writer.pause()
        self._leave_idle()

    def resume_writing(self) -> None:
        self._writer.resume()
        if self._task is None:
            self._start_next()

    # -- flow control: see `request_body.FlowControl` ----------------------------------------------------------------

    def pause_reading(self, reason: str) -> None:
        if not self._paused_for:
            self._transport.pause_reading()
        self._paused_for.add(reason)
        self._leave_idle()

    def resume_reading(self, reason: str) -> None:
        if reason in self._paused_for:
            self._paused_for.discard(reason)
            if not self._paused_for and self._state < LINGERING:
                # The time until now was spent on our side.
                self._last_data = self._parser.head_since = self._time()
                self._transport.resume_reading()
                self._return_to_idle()

    def send_continue(self) -> None:
        self._writer.write_continue()

    # -- requests in order: see `request_parser.RequestSink` ---------------------------------------------------------

    def accept(self, request: Request, keep_alive: bool, body: Body | None) -> None:
        if self._state >= ENDING:
            return
        self._accepted += 1
        if not keep_alive:
            self._move(ENDING)
        if body is not None:
            self._upload_floor.rest()
        if self._task is not None or self._queue or not self._writer.writable:
            self._queue.append((request, keep_alive, body))
            self._queued_bytes += request.wire_bytes
            if len(self._queue) >= MAX_QUEUE or self._queued_bytes >= MAX_QUEUE_BYTES:
                self.pause_reading("queue")
            return
        self._start(request, keep_alive, body)

    def refuse(self, reason: str) -> None:
        """Refuse a request that is malformed or too large. This ends the connection, after the responses to earlier
        requests."""
        if self._state >= LINGERING:
            return
        if self._state is not ENDING:
            self._move(ENDING)
        self._refusal = reason
        if self._parser.body is not None:
            self._parser.body.fail()
        if self._task is None and not self._queue:
            self._write_refusal()

    def _start(self, request: Request, keep_alive: bool, body: Body | None) -> None:
        exchange = self._handler.lookup(request)
        if exchange.refusal is None:
            self._last_accepted = request
        stored = exchange.hit
        if stored is not None and keep_alive and request.version == "1.1" and not self._shared.draining:
            whole = request.method == "GET"
            self._write_hit(exchange, stored, whole=whole)
            self._handler.log_access(exchange, 200, len(stored.body) if whole else 0, "Hit", "Hit")
            return
        self._run(exchange, keep_alive, body)

    def _write_hit(self, exchange: Exchange, stored: Stored, *, whole: bool = True) -> None:
        """Write a hit that the fast path did not find."""
        plan = exchange.plan
        policy = plan.route.response_headers if plan is not None else None
        request_id, age = exchange.request_id.encode(), aged(stored, exchange.now)
        size = self._writer.write_hit(stored, request_id, age, policy, exchange.request, whole=whole)
        exchange.head_bytes = size + len(self._shared.hit_tail) + len(request_id) + len(age)

    def _start_next(self) -> None:
        """Start the queued requests that can be started now."""
        if self._state >= LINGERING:
            return
        self._parser.head_since = (
            self._time()
        )  # a head may have started to arrive during a response that took its time
        queue = self._queue
        while queue and self._task is None and self._writer.writable:
            request, keep_alive, body = queue.popleft()
            self._queued_bytes -= request.wire_bytes
            self._start(request, keep_alive, body)
        if self._paused_for and len(queue) < MAX_QUEUE and self._queued_bytes < MAX_QUEUE_BYTES:
            self.resume_reading("queue")
        if self._task is None and not queue:
            if self._refusal:
                self._write_refusal()
            elif self._eof or self._shared.draining:
                self._close()
        self._return_to_idle()

    # -- one response ------------------------------------------------------------------------------------------------

    def _run(self, exchange: Exchange, keep_alive: bool, body: Body | None) -> None:
        self._leave_idle()
        self._task = asyncio.get_running_loop().create_task(self._respond(exchange, keep_alive, body))

    async def _respond(self, exchange: Exchange, keep_alive: bool, body: Body | None) -> None:
        """Answer one request that needs more than a memory lookup, up to the end of its response, and log it."""
        response = Response(self._shared, self, exchange, body, partial(self._break_off, exchange))
        try:
            async with response:
                reply = response.reply = response.refusal() or await self._reply(exchange)
                if reply is None:
                    return
                if (body is not None and not body.ended) or self._shared.draining:
                    keep_alive = False
                if reply.upstream is not None:
                    if await self._switch(exchange, reply, reply.upstream):
                        return
                    failure = OriginFailure("OriginCommError", 502, "closed by the origin behind its 101")
                    exchange.explanation = failure.detail
                    reply = error_pages.origin_failed(failure, exchange.request_id)
                    reply = response.reply = respond.dated(reply, exchange.now)
                if exchange.request.upgrade == WEBSOCKET:
                    keep_alive = self._parser.resume() and keep_alive
                keep_alive = await self._writer.write(exchange, reply, keep_alive=keep_alive)
        finally:
            self._task = None
            if self.tunnel is not None:
                self.connection_lost(None)
            elif self._state < LINGERING:
                if not keep_alive or response.detail == HUNG_UP:
                    self._finish(body)
                else:
                    if body is not None:
                        body.discard()
                    self._start_next()

    async def _reply(self, exchange: Exchange) -> Reply | None:
        """The reply to a request, None if the viewer has left."""
        if exchange.request.version == "1.1":
            exchange.interim = self._writer.write_interim
        try:
            return await self._handler.serve(exchange)
        except (ConnectionResetError, ConnectionAbortedError) as error:
            clear_traceback(error)
            if not self._refusal or self._state >= LINGERING:
                return None
            # The framing of the request body is invalid (`refuse`): this is the response.
            name, self._refusal = self._refusal, ""
            return self._shared.edge.refused(exchange, name)
        except (
            Exception
        ) as error:  # a bug in the edge must not break the order of responses on the connection
            logger.exception("request %s failed", exchange.request_id)
            return error_pages.internal_error(error, exchange.request_id)
        finally:
            exchange.interim = None

    def _break_off(self, exchange: Exchange, reply: Reply | None) -> None:
        """End the connection in the middle of a response: the only honest end if the rest of a body is missing. If the
        viewer can see that something is missing, what was already sent still arrives, including earlier responses."""
        if exchange.request.version == "1.0" and (reply is None or reply.length is None):
            self._reset()
        else:
            self._queue.clear()
            self._linger()

    async def _switch(self, exchange: Exchange, reply: Reply, upstream: Upstream) -> bool:
        """Run a WebSocket, from its 101 to its end. Returns False if the origin left before the viewer got the 101.

        :raises ConnectionResetError: if the viewer left before that.
        """
        writer, parser, limits = self._writer, self._parser, self._shared.limits
        if not writer.writable:
            await writer.drain()
        head = writer.head(exchange, reply, b"Upgrade: websocket\r\nConnection: Upgrade\r\n", None)
        exchange.reply, exchange.head_bytes = reply, len(head)
        self.resume_reading("early")
        tunnel = Tunnel(self._transport, limits.websocket_idle, limits.write)
        if not tunnel.open(upstream, head, bytes(parser.early or b""), ended=self._eof):
            upstream.end()
            return False
        parser.early = None
        exchange.timings.first_byte = perf_counter()
        self.tunnel = tunnel
        self._move(TUNNEL)
        try:
            await tunnel.finished
        finally:
            tunnel.abort()
            exchange.sent, exchange.received = tunnel.origin.received, tunnel.viewer.received
            reply.reason = tunnel.reason
        return True

    # -- ends --------------------------------------------------------------------------------------------------------

    def _write_refusal(self) -> None:
        request = self._parser.refused_request()
        exchange = self._shared.edge.unreadable(request)
        reply = self._shared.edge.refused(exchange, self._refusal)
        sent = self._writer.write_refusal(exchange, reply)
        self._handler.log_access(exchange, reply.status, sent, reply.x_cache, reply.detail, self._refusal)
        self._linger()

    def _finish(self, body: Body | None) -> None:
        """End the connection after its last response."""
        self._queue.clear()
        unread = self._parser.early is not None or (body is not None and not body.ended)
        if unread and not self._eof:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """Close our half, and give the viewer a moment to finish sending: closing immediately with unread bytes would
        reset the connection before the viewer has read its response (RFC 9112 §9.6)."""
        if self._state >= LINGERING:
            return
        self._paused_for.clear()
        self._transport.resume_reading()
        self._writer.close()
        self._writer.touch()
        if self._eof or not self._transport.can_write_eof():
            self._close()
            return
        self._move(LINGERING)
        try:
            self._transport.write_eof()
        except OSError as error:  # the viewer has reset the connection, and the loop has not noticed yet
            clear_traceback(error)
            self.abort()

    def _close(self) -> None:
        """Close the transport as soon as pending data is sent."""
        if self._state < CLOSING:
            self._move(CLOSING)
            self._transport.close()

    def drain(self) -> None:
        """Finish the requests in progress and close the connection, because the worker is about to stop. A
        viewer that was active within the last DRAIN_GRACE seconds may have sent a request: its connection waits."""
        self._leave_idle()
        wait = self._last_data + DRAIN_GRACE - self._time()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._close_unused)
        else:
            self._close_unused()

    def _close_unused(self) -> None:
        if self._task is None and not self._queue and self._parser.stage is not HEAD:
            self._close()

    def abort(self) -> None:
        """Close the transport immediately and discard pending data."""
        if self.tunnel is not None:
            self.tunnel.abort()
            return
        if self._state is not CLOSED:
            self._move(CLOSED)
        self._writer.close()
        self._transport.abort()

    def _cut(self, limit: str, *, reset: bool = False) -> None:
        """End the connection of a viewer that is too slow. With `reset`, send an RST: a viewer that does not read would
        never see an orderly close, and the kernel would hold all pending data for it."""
        if self._state is not CLOSED:
            self.limit = limit
            self.report(limit)
        if reset:
            self._reset()
        else:
            self.abort()

    def _reset(self) -> None:
        """End the connection so that the viewer cannot mistake it for an orderly end: RST instead of FIN."""
        abort_by_reset(self._transport)
        self.abort()

    def check(self, now: float) -> None:
        """Disconnect a peer that is idle, slow or stuck. To be called about once a second.

        :param now: the loop's time, in seconds.
        """
        if self.tunnel is not None:
            self.tunnel.check(now)
            return
        if self._received:
            self._received = False
            self._last_data = now
        pending = self._writer.pending
        if (pending or self._task is not None) and self._parser.body is None:
            self._last_data = now  # a response is in progress: the viewer counts as idle only after it
        limit = self._writer.overdue(now, self._shared.limits)
        if limit:
            self._cut(limit, reset=True)
        elif not pending:
            self._check_reading(now)

    def _check_reading(self, now: float) -> None:
        limits, parser, body = self._shared.limits, self._parser, self._parser.body
        if self._state is LINGERING:
            if self._writer.idle_for(now) > LINGER:
                self.abort()
        elif (
            (parser.stage is HEAD or parser.stage is BLANK_LINES)
            and self._task is None
            and not self._queue
            and not self._paused_for
        ):
            if now - parser.head_since > limits.head:
                self._cut("slow_head")
        elif body is not None:
            if self._paused_for or body.awaited:
                self._upload_floor.rest()
            elif now - self._last_data > limits.body:
                self._cut("stuck_upload")
            elif self._upload_floor.slow(now, body.total, limits.rate, limits.body):
                self._cut("slow_upload")
        elif self._task is None and now - self._last_data > self._shared.idle:
            self._close()
